import assert from "node:assert/strict";
import { test } from "node:test";

import { farewell, length, sender, status, wait } from "../../passenger/labels.js";

/** @param {any} more @returns {any} */
const trip = (more) => ({ status: "new", pickup: {}, dropoff: {}, ...more });

test("distances", () => {
  const distances = { 0: "50 m", 40: "50 m", 420: "400 m", 949: "950 m", 960: "1.0 km", 1_840: "1.8 km", 9_960: "10 km", 25_400: "25 km" };
  for (const [metres, words] of Object.entries(distances)) assert.equal(length(Number(metres)), words);
});

test("waiting times say how sure they are", () => {
  assert.equal(wait(10_000), "under a minute");
  assert.equal(wait(240_000), "4 min");
  assert.equal(wait(300_000, 30_000), "5 min");
  assert.equal(wait(300_000, 120_000), "3–7 min");
  assert.equal(wait(65 * 60_000), "1 h 5 min");
});

test("every status has words, also one that is new to this page", () => {
  assert.equal(status(trip({})), "Looking for a vehicle");
  assert.equal(status(trip({ vehicle: {} })), "Your ride is booked");
  assert.equal(status(trip({ status: "enroute_to_pickup" })), "On the way to you");
  assert.equal(status(trip({ status: "arrived_at_pickup" })), "Waiting at pickup");
  assert.equal(status(trip({ status: "enroute_to_dropoff", dropoff: { name: "Schaan" } })), "On the way to Schaan");
  assert.equal(status(trip({ status: "enroute_to_dropoff", dropoff: { name: "\u202eamoR" } })), "On the way to amoR");
  assert.equal(status(trip({ status: "teleporting" })), "Trip under way");
});

test("last words tell a finished trip from a canceled one", () => {
  assert.equal(farewell("over", null).title, "Trip finished");
  assert.equal(farewell("over", trip({ status: "canceled" })).title, "This trip was canceled");
  assert.match(farewell("over", trip({ status: "complete", dropoff: { name: "Schaan" } })).text, /Arrived at Schaan/);
  assert.equal(farewell("revoked", null).title, "This link has expired or was revoked");
  assert.equal(sender("driver"), "From the driver");
  assert.equal(sender("constructor"), "Message");
});
