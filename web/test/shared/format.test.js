import assert from "node:assert/strict";
import { test } from "node:test";

import { ago, isolated } from "../../shared/format.js";

test("ages", () => {
  const ages = { 0: "just now", [-5_000]: "just now", 1_400: "just now", 3_000: "3 s ago", 59_400: "59 s ago", 61_000: "1 min ago", 3_599_000: "59 min ago", 7_200_000: "2 h ago", 200_000_000: "2 d ago" };
  for (const [age, words] of Object.entries(ages)) assert.equal(ago(Number(age)), words);
});

test("a name does not turn the text around it", () => {
  assert.equal(isolated("Zürich"), "Zürich");
  assert.equal(isolated("\u202egnp.exe\u202c"), "gnp.exe");
  assert.equal(isolated("a\u2069\u202eb"), "ab");
  assert.equal(isolated("سيارة 7"), "\u2068سيارة 7\u2069");
});
