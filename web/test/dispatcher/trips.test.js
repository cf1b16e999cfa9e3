import assert from "node:assert/strict";
import { test } from "node:test";

import { Trips } from "../../dispatcher/state/trips.js";

/** @param {string} id @param {any} [fields] */
const trip = (id, fields = {}) => ({ trip_id: id, status: /** @type {const} */ ("new"), version: 1, pickup: { latitude: 47, longitude: 9 }, dropoff: { latitude: 48, longitude: 9 }, ...fields });

test("of a trip the highest version counts, and a list takes away what is no longer open", () => {
  const trips = new Trips();
  trips.ask();
  trips.replace([trip("a"), trip("b")]);
  trips.put(trip("a", { version: 3, status: "enroute_to_pickup" }));
  trips.put(trip("a", { version: 2 }));
  assert.equal(trips.get("a")?.version, 3);
  trips.ask();
  trips.put(trip("c"));
  trips.remove("b");
  trips.replace([trip("a"), trip("b")]);
  assert.deepEqual(trips.open.map(({ trip_id: id }) => id), ["a", "c"], "c came, and b went, while the list was on its way");
  trips.put(trip("c", { version: 2, status: "canceled" }));
  assert.deepEqual(trips.open.map(({ trip_id: id }) => id), ["a"]);
  assert.equal(trips.get("c")?.status, "canceled");
});

test("trips that wait for a vehicle come first", () => {
  const trips = new Trips();
  trips.replace([trip("a", { vehicle: { vehicle_id: "v" } }), trip("b")]);
  assert.deepEqual(trips.open.map(({ trip_id: id }) => id), ["b", "a"]);
});
