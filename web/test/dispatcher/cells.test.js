import assert from "node:assert/strict";
import { test } from "node:test";

import { Area, boundsOf, cellOf, project } from "../../dispatcher/state/cells.js";

const at = (/** @type {number} */ latitude, /** @type {number} */ longitude) => project(latitude, longitude);

test("a cell is named like the map's tile at zoom 14", () => {
  assert.equal(cellOf(at(47.141, 9.521)), "14/8625/5753");
  assert.equal(cellOf(at(0, 0)), "14/8192/8192");
  assert.equal(cellOf(at(89.9, -180)), "14/0/0");
  assert.equal(cellOf(at(-89.9, 180)), "14/16383/16383");
});

test("an area holds whole cells, not only its bounds", () => {
  const area = new Area([9.5211, 47.1411, 9.5212, 47.1412]);
  assert.ok(area.holds(at(47.141, 9.521)));
  assert.ok(!area.holds(at(47.2, 9.521)));
  assert.ok(!area.holds(at(47.141, 9.6)));
});

test("an area goes across the date line", () => {
  const area = new Area([179, -10, -179, 10]);
  assert.ok(area.holds(at(0, 179.5)));
  assert.ok(area.holds(at(0, -179.5)));
  assert.ok(!area.holds(at(0, 0)));
});

test("bounds that Leaflet counts on past 180 degrees come back into the world", () => {
  assert.deepEqual(boundsOf(170, -10, 190, 10), [170, -10, -170, 10]);
  assert.deepEqual(boundsOf(-550, -95, -540, 95), [170, -90, -180, 90]);
  assert.deepEqual(boundsOf(-200, -10, 200, 10), [-180, -10, 180, 10]);
});
