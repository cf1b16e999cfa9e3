import assert from "node:assert/strict";
import { test } from "node:test";

import { cellOf, project } from "../../dispatcher/state/cells.js";
import { placeAt, Vehicles } from "../../dispatcher/state/vehicles.js";
import { decodeForDispatcher } from "../../shared/messages.js";
import { seeded } from "../random.js";

/** @type {import("../../dispatcher/state/cells.js").Bounds} */
const VADUZ = [9.5, 47.1, 9.54, 47.17];
/** @type {import("../../dispatcher/state/cells.js").Bounds} */
const NORTH = [9.5, 47.2, 9.54, 47.27];
const state = (/** @type {string} */ id, fields = {}) => ({ vehicle_id: id, name: `Van ${id}`, kind: "van", plate: "FL 1", latitude: 47.141, longitude: 9.521, fix_time: 1_000, status: "available", ...fields });
const row = (/** @type {string} */ id, latitude = 47.142, fixTime = 2_000) => [id, latitude, 9.521, 90, 5, fixTime];
const cell = (/** @type {number} */ latitude) => cellOf(project(latitude, 9.521));

/** @param {Vehicles} vehicles @param {object} message @param {number} [now] */
const hear = (vehicles, message, now = 0) => vehicles.receive(decodeForDispatcher(JSON.stringify(message)), now);
const watching = (bounds = VADUZ, ids = ["a", "b"]) => {
  const vehicles = new Vehicles();
  vehicles.look(bounds, 0);
  hear(vehicles, { type: "fleet_snapshot", cells: [cell(47.141)], vehicles: ids.map((id) => state(id)) });
  return vehicles;
};
const ids = (/** @type {Vehicles} */ { byId }) => [...byId.keys()].sort();

test("a snapshot replaces its cells and no others; without cells it adds", () => {
  const vehicles = watching();
  hear(vehicles, { type: "fleet_snapshot", cells: [], vehicles: [state("c", { latitude: 47.165 })] });
  assert.deepEqual(ids(vehicles), ["a", "b", "c"]);
  hear(vehicles, { type: "fleet_snapshot", cells: [cell(47.141)], vehicles: [state("b")] });
  assert.deepEqual(ids(vehicles), ["b", "c"]);
  hear(vehicles, { type: "fleet_snapshot", cells: [], vehicles: [] });
  assert.deepEqual(ids(vehicles), ["b", "c"]);
});

test("a row moves a vehicle, and an older one doesn't", () => {
  const vehicles = watching();
  hear(vehicles, { type: "fleet", positions: [row("a", 47.143, 3_000)] });
  hear(vehicles, { type: "fleet", positions: [row("a", 47.142, 2_000)] });
  assert.equal(vehicles.byId.get("a")?.latitude, 47.143);
  assert.equal(vehicles.byId.get("a")?.bearing, 90);
});

test("a snapshot that was long on its way doesn't set a vehicle back", () => {
  const vehicles = watching();
  hear(vehicles, { type: "fleet", positions: [row("a", 47.143, 3_000)] });
  hear(vehicles, { type: "fleet_snapshot", cells: [cell(47.141)], vehicles: [state("a", { fix_time: 2_500 }), state("b")] });
  assert.equal(vehicles.byId.get("a")?.latitude, 47.143);
});

test("a vehicle comes into view with its description, in one message or in two", () => {
  const vehicles = watching();
  const description = { vehicle_id: "c", name: "Car", kind: "car", plate: "FL 9", status: "on_trip", trip_id: "t" };
  hear(vehicles, { type: "fleet", positions: [row("c")], vehicles: [description] });
  assert.equal(vehicles.byId.get("c")?.status, "on_trip");
  hear(vehicles, { type: "fleet", positions: [], vehicles: [{ ...description, vehicle_id: "d" }] });
  hear(vehicles, { type: "fleet", positions: [row("d"), row("nobody")] });
  assert.deepEqual(ids(vehicles), ["a", "b", "c", "d"]);
});

test("a description without a row changes status, name and trip", () => {
  const vehicles = watching();
  hear(vehicles, { type: "fleet", positions: [], vehicles: [{ vehicle_id: "a", name: "New", kind: "van", plate: "FL 1", status: "stopped", trip_id: "t" }] });
  assert.deepEqual({ ...vehicles.counts }, { available: 1, on_trip: 0, stopped: 1, lost: 0 });
  assert.equal(vehicles.byId.get("a")?.tripId, "t");
});

test("a vehicle that drives out of the cells is seen to go, and who left is gone", () => {
  const vehicles = watching();
  hear(vehicles, { type: "fleet", positions: [row("a", 47.25)] });
  assert.deepEqual(ids(vehicles), ["b"]);
  hear(vehicles, { type: "fleet", positions: [], left: ["b"] });
  assert.deepEqual(ids(vehicles), []);
  assert.equal(vehicles.nameOf("b"), "Van b", "its events still have a name");
});

test("looking elsewhere forgets what is outside, but not at once", () => {
  const vehicles = watching();
  vehicles.look(NORTH, 100);
  assert.deepEqual(ids(vehicles), []);
  hear(vehicles, { type: "fleet", positions: [row("a", 47.144, 4_000)] }, 150);
  assert.deepEqual(ids(vehicles), []);
  vehicles.look(VADUZ, 300);
  assert.deepEqual(ids(vehicles), ["a", "b"], "the hub may not have noticed the way there and back");
  assert.equal(vehicles.byId.get("a")?.latitude, 47.144);
  vehicles.look(NORTH, 400);
  vehicles.look(VADUZ, 9_000);
  assert.deepEqual(ids(vehicles), []);
});

test("clusters replace everything until a snapshot ends them", () => {
  const vehicles = watching();
  hear(vehicles, { type: "clusters", clusters: [[47.1, 9.5, 2_500]] });
  assert.deepEqual(ids(vehicles), []);
  assert.equal(vehicles.clusters?.length, 1);
  hear(vehicles, { type: "fleet", positions: [row("a")] });
  assert.deepEqual(ids(vehicles), []);
  hear(vehicles, { type: "fleet_snapshot", cells: [cell(47.141)], vehicles: [state("a")] });
  assert.equal(vehicles.clusters, null);
  assert.deepEqual(ids(vehicles), ["a"]);
});

test("a vehicle glides from where it was shown, and leaps where it can't have driven", () => {
  const vehicles = watching();
  hear(vehicles, { type: "fleet", positions: [row("a", 47.1411, 2_000)] }, 1_000);
  const vehicle = /** @type {import("../../dispatcher/state/vehicles.js").Vehicle} */ (vehicles.byId.get("a"));
  const start = project(47.141, 9.521);
  assert.equal(placeAt(vehicle, 1_000).y, start.y);
  assert.ok(Math.abs(placeAt(vehicle, 1_500).y - (start.y + vehicle.y) / 2) < 1e-12);
  assert.deepEqual(placeAt(vehicle, 5_000), { x: vehicle.x, y: vehicle.y });
  hear(vehicles, { type: "fleet", positions: [row("a", 47.16, 3_000)] }, 6_000);
  assert.deepEqual(placeAt(vehicle, 6_000), { x: vehicle.x, y: vehicle.y });
});

test("frames that are no message are unknown", () => {
  for (const frame of ["", "{", "null", "[]", '{"type":"constructor"}', '{"type":"fleet_snapshot"}', '{"type":"fleet_snapshot","cells":[],"vehicles":[{}]}', '{"type":"event","event_id":"1"}', new ArrayBuffer(2)]) {
    assert.deepEqual(decodeForDispatcher(frame), { type: "unknown" });
  }
});

test("whatever is looked at and however the hub bundles it, the page ends with what the viewport holds", () => {
  for (let seed = 1; seed <= 200; seed += 1) {
    const { integer, chance } = seeded(seed);
    const vehicles = new Vehicles();
    /** @type {Map<string, {latitude: number, fixTime: number}>} */
    const world = new Map();
    /** @type {Set<string>} the cells that the hub sends */
    let cells = new Set();
    let now = 0;
    const latitudes = () => 47 + integer(0, 60) / 100;
    for (let id = 0; id < 12; id += 1) world.set(String(id), { latitude: latitudes(), fixTime: 0 });
    const here = () => [...world].filter(([, { latitude }]) => cells.has(cell(latitude)));
    const look = () => {
      const south = 47 + integer(0, 40) / 100;
      vehicles.look([9.5, south, 9.54, south + 0.15], now);
      /** @type {Set<string>} */
      const wanted = new Set();
      for (let step = 0; step <= 150; step += 1) wanted.add(cell(south + step / 1_000));
      const fresh = [...wanted].filter((name) => !cells.has(name));
      cells = wanted;
      const inside = here().filter(([, { latitude }]) => fresh.includes(cell(latitude)));
      hear(vehicles, { type: "fleet_snapshot", cells: fresh, vehicles: inside.map(([id, { latitude, fixTime }]) => state(id, { latitude, fix_time: fixTime })) }, now);
    };
    look();
    for (let step = 0; step < 60; step += 1) {
      now += integer(50, 900);
      if (chance(0.2)) look();
      const id = String(integer(0, 11));
      const before = /** @type {{latitude: number, fixTime: number}} */ (world.get(id));
      const after = { latitude: chance(0.3) ? latitudes() : before.latitude + 0.0001, fixTime: before.fixTime + 1_000 };
      world.set(id, after);
      const was = cells.has(cell(before.latitude));
      const is = cells.has(cell(after.latitude));
      const came = is && cell(before.latitude) !== cell(after.latitude);
      if (was || is) hear(vehicles, { type: "fleet", positions: [row(id, after.latitude, after.fixTime)], vehicles: came ? [state(id)] : undefined }, now);
      const expected = here().map(([known]) => known).sort();
      assert.deepEqual(ids(vehicles), expected, `seed ${seed}, step ${step}`);
      for (const [known, { latitude }] of here()) assert.equal(vehicles.byId.get(known)?.latitude, latitude);
    }
  }
});
