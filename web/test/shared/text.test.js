import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { Api } from "../../dispatcher/state/api.js";
import { decodeForDispatcher, decodeForPassenger } from "../../shared/messages.js";
import { shortened } from "../../shared/text.js";

const { fetch: ownFetch } = globalThis;
afterEach(() => {
  globalThis.fetch = ownFetch;
});

const vehicle = { vehicle_id: "v", name: "\u202egnp.exe\u202c", kind: "car", plate: "FL \u202e21\u202c" };

test("no plate or name is shown turned round, wherever on the pages it stands and whichever way it came", async () => {
  const places = { pickup: { latitude: 47, longitude: 9, name: "\u2067egarag\u2069" }, dropoff: { latitude: 47, longitude: 9 }, stops: [] };
  const trip = { trip_id: "t", status: "enroute_to_pickup", version: 1, fleet_id: "f", ...places, vehicle };
  const told = /** @type {any} */ (decodeForPassenger(JSON.stringify({ type: "trip", offset: 1, trip })));
  assert.equal(told.trip.vehicle.plate, "FL 21");
  assert.equal(told.trip.vehicle.name, "gnp.exe");
  assert.equal(told.trip.pickup.name, "egarag");
  const fleet = /** @type {any} */ (decodeForDispatcher(JSON.stringify({ type: "fleet_snapshot", cells: [], vehicles: [{ ...vehicle, status: "available", latitude: 47, longitude: 9, fix_time: 1 }] })));
  assert.equal(fleet.vehicles[0].plate, "FL 21");
  globalThis.fetch = async () => new Response(JSON.stringify(vehicle), { status: 200 });
  assert.deepEqual(await new Api("token", "f").vehicle("v"), { ...vehicle, name: "gnp.exe", plate: "FL 21" });
});

test("a long name is cut between characters", () => {
  assert.equal(shortened("Bus 7", 8), "Bus 7");
  assert.equal(shortened("Ö".repeat(200), 8), `${"Ö".repeat(7)}…`);
  assert.equal(shortened("🚕".repeat(8), 8), "🚕".repeat(8));
  assert.equal(shortened("🚕".repeat(9), 8), `${"🚕".repeat(7)}…`);
});
