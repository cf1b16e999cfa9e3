import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { searchKey } from "../../dispatcher/state/search_key.js";

/** @type {{keys: [string, string][]}} */
const { keys } = JSON.parse(readFileSync(new URL("../../../tests/support/search_keys.json", import.meta.url), "utf8"));

test("a text is searched for as PostgreSQL has it", () => {
  for (const [text, key] of keys) assert.equal(searchKey(text), key.normalize("NFKD"), text);
});
