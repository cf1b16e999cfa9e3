import assert from "node:assert/strict";
import { test } from "node:test";

import { clockText, distanceText, durationText, eventText, farewell } from "../../dispatcher/labels.js";

const event = (/** @type {number} */ id) => ({ event_id: id, kind: /** @type {const} */ ("enter"), vehicle_id: "v", server_time: id });

test("a clock that is wrong is told in words", () => {
  assert.equal(clockText(0), "");
  assert.equal(clockText(-7_200), "Clock 2 h behind");
  assert.equal(clockText(-20_700), "Clock 5 h 45 min behind");
  assert.equal(clockText(45), "Clock 45 s ahead");
  assert.equal(clockText(-86_400 * 7_168), "Clock 7168 days behind");
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
