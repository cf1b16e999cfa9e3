import assert from "node:assert/strict";
import { test } from "node:test";

import { Geofences, nameOf, propertiesOf, toKilometresPerHour, toMetresPerSecond } from "../../dispatcher/state/geofences.js";

/** @param {string} id @param {any} [properties] @returns {import("../../shared/messages.js").Geofence} */
const fence = (id, properties = {}) => ({ type: "Feature", id, geometry: { type: "Polygon", coordinates: [] }, properties });

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
