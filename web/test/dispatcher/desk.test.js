import assert from "node:assert/strict";
import { test } from "node:test";

import { clockText, distanceText, durationText, eventText, farewell } from "../../dispatcher/labels.js";
import { boxAround } from "../../dispatcher/map/initial_view.js";
import { EventLog } from "../../dispatcher/state/events.js";
import { Geofences, nameOf, propertiesOf, toKilometresPerHour, toMetresPerSecond } from "../../dispatcher/state/geofences.js";
import { Trips } from "../../dispatcher/state/trips.js";

const event = (/** @type {number} */ id) => ({ event_id: id, kind: /** @type {const} */ ("enter"), vehicle_id: "v", server_time: id });
/** @param {string} id @param {any} [fields] */
const trip = (id, fields = {}) => ({ trip_id: id, status: /** @type {const} */ ("new"), version: 1, pickup: { latitude: 47, longitude: 9 }, dropoff: { latitude: 48, longitude: 9 }, ...fields });
/** @param {string} id @param {any} [properties] @returns {import("../../shared/messages.js").Geofence} */
const fence = (id, properties = {}) => ({ type: "Feature", id, geometry: { type: "Polygon", coordinates: [] }, properties });

test("an event is told once, and what was missed goes to its place", () => {
  const log = new EventLog();
  assert.equal(log.last, 0);
  assert.equal(log.add([event(1), event(2)]).length, 2);
  assert.equal(log.add([event(5)]).length, 1);
  assert.deepEqual(log.add([event(2), event(3), event(4), event(5)]).map(({ event_id: id }) => id), [3, 4]);
  assert.deepEqual(log.events.map(({ event_id: id }) => id), [1, 2, 3, 4, 5]);
  log.add(Array.from({ length: 700 }, (_, index) => event(10 + index)));
  assert.equal(log.events.length, 500);
  assert.equal(log.last, 709);
});

test("what a backlog tells goes to its place in time, and pushes no news out", () => {
  const log = new EventLog();
  const late = (/** @type {number} */ id, /** @type {number} */ fixTime) => ({ ...event(id), late: true, fix_time: fixTime });
  log.add([event(100), event(110)]);
  log.add([late(111, 3), late(112, 105)]);
  assert.deepEqual(log.events.map(({ event_id: id }) => id), [111, 100, 112, 110]);
  assert.equal(log.last, 112);
  // A clock that is wrong doesn't make old what has just happened.
  log.add([{ ...event(120), fix_time: 4 }]);
  assert.equal(log.events.at(-1)?.event_id, 120);
  log.add(Array.from({ length: 700 }, (_, index) => late(1_000 + index, 5 + index / 10)));
  assert.equal(log.events.length, 500);
  assert.deepEqual(log.events.slice(-3).map(({ event_id: id }) => id), [112, 110, 120]);
  assert.equal(log.last, 1_699);
});

test("a clock that is wrong is told in words", () => {
  assert.equal(clockText(0), "");
  assert.equal(clockText(-7_200), "Clock 2 h behind");
  assert.equal(clockText(-20_700), "Clock 5 h 45 min behind");
  assert.equal(clockText(45), "Clock 45 s ahead");
  assert.equal(clockText(-86_400 * 7_168), "Clock 7168 days behind");
});

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

test("geofences keep what was heard while their list was on its way", () => {
  const geofences = new Geofences();
  geofences.replace([fence("x"), fence("y", { name: "Old" })]);
  geofences.ask();
  geofences.put(fence("y", { name: "New" }));
  geofences.remove("x");
  geofences.replace([fence("x"), fence("y", { name: "Old" }), fence("z", { name: "A" })]);
  assert.deepEqual(geofences.sorted.map(nameOf), ["A", "New"]);
  assert.equal(geofences.nameOf("gone"), "gone");
  assert.equal(geofences.nameOf(undefined), "");
});

test("a form becomes m/s and seconds, and keeps what else the integrator put there", () => {
  const before = { name: "Old", speed_limit: 5, dwell_after: 60, colour: "red" };
  assert.deepEqual(propertiesOf({ name: " Depot ", kilometresPerHour: "50", minutes: "2.5" }, before), { colour: "red", name: "Depot", speed_limit: 13.889, dwell_after: 150 });
  assert.deepEqual(propertiesOf({ name: "", kilometresPerHour: "", minutes: "" }, before), { colour: "red" });
  for (const limit of [1, 7, 30, 50, 80, 120, 33.3]) assert.equal(toKilometresPerHour(toMetresPerSecond(limit)), String(limit));
});

test("the first look holds most of the fleet, and not the one that is abroad", () => {
  const places = Array.from({ length: 40 }, (_, index) => ({ latitude: 47 + index / 1_000, longitude: 9.5 }));
  const box = boxAround([...places, { latitude: 0, longitude: 0 }]);
  assert.ok(box && box[0] > 46.9 && box[2] < 47.1 && box[1] > 9);
  assert.equal(boxAround([]), null);
});

test("events and numbers in words", () => {
  assert.equal(eventText({ ...event(1), kind: "speeding", speed: 20, limit: 13.889 }, "School"), "drives 72 km/h, 50 km/h allowed in School");
  assert.equal(eventText({ ...event(1), kind: "speeding" }, ""), "is speeding");
  assert.equal(eventText(event(1), ""), "entered a geofence");
  assert.equal(eventText({ ...event(1), kind: /** @type {any} */ ("door_open") }, ""), "door open");
  assert.deepEqual([distanceText(84), distanceText(1_240), distanceText(23_400)], ["80 m", "1.2 km", "23 km"]);
  assert.deepEqual([durationText(42), durationText(300), durationText(4_500)], ["42 s", "5 min", "1 h 15 min"]);
  for (const why of /** @type {const} */ (["over", "revoked", "expired", "invalid", "incomplete", "outdated"])) assert.ok(farewell(why).title && farewell(why).text);
});
