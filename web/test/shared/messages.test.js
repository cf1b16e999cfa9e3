import assert from "node:assert/strict";
import { test } from "node:test";

import { decodeForDispatcher, decodeForPassenger } from "../../shared/messages.js";

const place = { latitude: 47, longitude: 9 };
const trip = { trip_id: "t", status: "new", version: 1, pickup: place, dropoff: place };

test("each page takes its own types, and both take a tick", () => {
  const take = (/** @type {object} */ message) => [decodeForPassenger, decodeForDispatcher].map((decode) => decode(JSON.stringify(message)).type);
  assert.deepEqual(take({ type: "tick", server_time: 1 }), ["tick", "tick"]);
  assert.deepEqual(take({ type: "trip", offset: 1, trip }), ["trip", "trip"]);
  assert.deepEqual(take({ type: "snapshot", epoch: "e", offset: 0, server_time: 1, trip, track: [] }), ["snapshot", "unknown"]);
  assert.deepEqual(take({ type: "clusters", clusters: [] }), ["unknown", "clusters"]);
  assert.deepEqual(take({ type: "constructor" }), ["unknown", "unknown"]);
});

test("a passenger's trip is numbered, a dispatcher's is named", () => {
  assert.equal(decodeForPassenger(JSON.stringify({ type: "trip", trip })).type, "unknown");
  assert.equal(decodeForDispatcher(JSON.stringify({ type: "trip", trip })).type, "trip");
  assert.equal(decodeForDispatcher(JSON.stringify({ type: "trip", trip: { ...trip, trip_id: undefined } })).type, "unknown");
});
