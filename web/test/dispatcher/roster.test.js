import assert from "node:assert/strict";
import { test } from "node:test";

import { matches, roster } from "../../dispatcher/state/roster.js";
import { seeded } from "../random.js";

/** @typedef {import("../../dispatcher/state/roster.js").Listed} Listed */

/** @param {string} id @param {string} name @param {Partial<Listed>} [fields] @returns {Listed} */
const vehicle = (id, name, fields = {}) => ({ id, name, plate: "FL 12345", status: "available", clockSkew: 0, fixTime: 0, ...fields });
const names = (/** @type {Listed[]} */ list) => list.map(({ name }) => name);

test("names are sorted as people count, and equal ones by id", () => {
  const list = [vehicle("1", "Van 10"), vehicle("2", "van 9"), vehicle("4", "Äxi"), vehicle("3", "Van 10")];
  assert.deepEqual(roster(list).map(({ id }) => id), ["4", "2", "1", "3"]);
});

test("the order is the same however the vehicles come", () => {
  const list = Array.from({ length: 50 }, (_, index) => vehicle(String(index), `Van ${index % 7}`, { status: index % 2 ? "lost" : "available", fixTime: (index % 3) * 60_000 }));
  const { random } = seeded(7);
  for (const order of /** @type {const} */ (["name", "status", "seen"])) {
    const expected = roster(list, { order }).map(({ id }) => id);
    const shuffled = [...list].sort(() => random() - 0.5);
    assert.deepEqual(roster(shuffled, { order }).map(({ id }) => id), expected);
  }
});

test("statuses and words filter", () => {
  const list = [vehicle("1", "Bus", { status: "lost" }), vehicle("2", "Van", { plate: "FL 777" }), vehicle("3", "Car")];
  assert.deepEqual(names(roster(list, { statuses: new Set(/** @type {const} */ (["lost"])) })), ["Bus"]);
  assert.deepEqual(names(roster(list, { search: "fl777" })), ["Van"]);
  assert.deepEqual(names(roster(list, { search: "12345 ca" })), ["Car"]);
});

test("a plate is found with and without its spaces", () => {
  for (const search of ["fl 12", "FL12", "123", "van", "v-1"]) assert.ok(matches({ id: "v-1", name: "Van", plate: "FL 12345" }, search), search);
  assert.ok(!matches({ id: "v-1", name: "Van", plate: "FL 12345" }, "bus"));
});
