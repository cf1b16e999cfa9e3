import assert from "node:assert/strict";
import { test } from "node:test";

import { boxAround } from "../../dispatcher/map/initial_view.js";

test("the first look holds most of the fleet, and not the one that is abroad", () => {
  const places = Array.from({ length: 40 }, (_, index) => ({ latitude: 47 + index / 1_000, longitude: 9.5 }));
  const box = boxAround([...places, { latitude: 0, longitude: 0 }]);
  assert.ok(box && box[0] > 46.9 && box[2] < 47.1 && box[1] > 9);
  assert.equal(boxAround([]), null);
});
