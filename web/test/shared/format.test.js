import assert from "node:assert/strict";
import { test } from "node:test";

import { ago, farewell, isolated, length, sender, status, wait } from "../../shared/format.js";

/** @param {any} more @returns {any} */
const trip = (more) => ({ status: "new", pickup: {}, dropoff: {}, ...more });

test("ages", () => {
  const ages = { 0: "just now", [-5_000]: "just now", 1_400: "just now", 3_000: "3 s ago", 59_400: "59 s ago", 61_000: "1 min ago", 3_599_000: "59 min ago", 7_200_000: "2 h ago", 200_000_000: "2 d ago" };
  for (const [age, words] of Object.entries(ages)) assert.equal(ago(Number(age)), words);
});

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

test("a name does not turn the text around it", () => {
  assert.equal(isolated("Zürich"), "Zürich");
  assert.equal(isolated("\u202egnp.exe\u202c"), "gnp.exe");
  assert.equal(isolated("a\u2069\u202eb"), "ab");
  assert.equal(isolated("سيارة 7"), "\u2068سيارة 7\u2069");
  assert.equal(status(trip({ status: "enroute_to_dropoff", dropoff: { name: "\u202eamoR" } })), "On the way to amoR");
});
