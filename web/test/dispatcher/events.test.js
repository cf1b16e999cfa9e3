import assert from "node:assert/strict";
import { test } from "node:test";

import { EventLog } from "../../dispatcher/state/events.js";

const event = (/** @type {number} */ id) => ({ event_id: id, kind: /** @type {const} */ ("enter"), vehicle_id: "v", server_time: id });

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
  // A wrong clock does not make a new event old.
  log.add([{ ...event(120), fix_time: 4 }]);
  assert.equal(log.events.at(-1)?.event_id, 120);
  log.add(Array.from({ length: 700 }, (_, index) => late(1_000 + index, 5 + index / 10)));
  assert.equal(log.events.length, 500);
  assert.deepEqual(log.events.slice(-3).map(({ event_id: id }) => id), [112, 110, 120]);
  assert.equal(log.last, 1_699);
});
