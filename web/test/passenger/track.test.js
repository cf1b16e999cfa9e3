import assert from "node:assert/strict";
import { test } from "node:test";

import { Track } from "../../passenger/track.js";
import { seeded } from "../random.js";

const at = (/** @type {number} */ time, mark = 0) => /** @type {[number, number, number]} */ ([9.5 + time / 1e6, 47.1 + mark, time]);
const times = (/** @type {Track} */ track) => track.points.map((point) => point[2]);

test("a point newer than the end extends the line without a revision", () => {
  const track = new Track();
  track.add(at(1));
  track.add(at(2));
  assert.deepEqual(times(track), [1, 2]);
  assert.equal(track.revision, 0);
});

test("a late point goes to its place", () => {
  const track = new Track();
  for (const time of [1, 3, 2]) track.add(at(time));
  assert.deepEqual(times(track), [1, 2, 3]);
  assert.equal(track.revision, 1);
});

test("an instant known already changes nothing", () => {
  const track = new Track();
  for (const time of [1, 2, 3]) track.add(at(time));
  track.add(at(2, 1));
  assert.deepEqual(track.points, [at(1), at(2), at(3)]);
  assert.equal(track.revision, 0);
});

test("a revision replaces both ends of its part and nothing else", () => {
  const track = new Track();
  track.replace([1, 2, 3, 4, 5].map((time) => at(time)));
  track.revise(2, 4, [at(2, 1), at(3, 1), at(3.5, 1), at(4, 1)]);
  assert.deepEqual(track.points, [at(1), at(2, 1), at(3, 1), at(3.5, 1), at(4, 1), at(5)]);
});

test("a revision before, after and of an empty line", () => {
  const track = new Track();
  track.revise(5, 6, [at(5), at(6)]);
  track.revise(1, 2, [at(1), at(2)]);
  track.revise(8, 9, [at(8), at(9)]);
  track.revise(5, 6, []);
  assert.deepEqual(times(track), [1, 2, 8, 9]);
});

test("points that are none are left out", () => {
  const track = new Track();
  track.replace(/** @type {any} */ ([at(1), null, [1, 2], [1, NaN, 3], ["9", 47, 2], at(4)]));
  track.add(/** @type {any} */ ([9, 47, undefined]));
  assert.deepEqual(times(track), [1, 4]);
});

test("the end of the line has a heading once it is longer than noise", () => {
  const track = new Track();
  assert.equal(track.heading, null);
  track.replace([[9.52, 47.14, 1], [9.52, 47.14001, 2]]);
  assert.equal(track.heading, null);
  track.add([9.52, 47.142, 3]);
  assert.ok(Math.abs(/** @type {number} */ (track.heading)) < 1e-6);
  track.add([9.52001, 47.142, 4]);
  assert.ok(/** @type {number} */ (track.heading) < 5);
});

test("whatever is done to it, the line is what a plain map of instants says", () => {
  for (let seed = 1; seed <= 200; seed += 1) {
    const { integer, chance } = seeded(seed);
    const track = new Track();
    /** @type {Map<number, [number, number, number]>} */
    let model = new Map();
    for (let step = 0; step < 60; step += 1) {
      const mark = step + 1;
      if (chance(0.7)) {
        const point = at(integer(1, 80), mark);
        track.add(point);
        if (!model.has(point[2])) model.set(point[2], point);
      } else if (chance(0.9)) {
        const from = integer(0, 80);
        const to = from + integer(0, 20);
        const fresh = Array.from({ length: integer(0, 8) }, () => at(integer(from - 2, to + 2), mark));
        track.revise(from, to, fresh);
        model = new Map([...model].filter(([time]) => time < from || time > to));
        for (const point of fresh) if (point[2] >= from && point[2] <= to) model.set(point[2], point);
      } else {
        const fresh = Array.from({ length: integer(0, 20) }, () => at(integer(1, 80), mark));
        track.replace(fresh);
        model = new Map(fresh.map((point) => [point[2], point]));
      }
      const expected = [...model.values()].sort((one, other) => one[2] - other[2]);
      assert.deepEqual(track.points, expected, `seed ${seed}, step ${step}`);
      const time = integer(-1, 82);
      assert.equal(track.countUntil(time), expected.filter((point) => point[2] <= time).length);
    }
  }
});

test("each vehicle has a line of its own", () => {
  const track = new Track();
  track.giveTo("second");
  // The first one's clock runs ahead: by the times alone the two would be one zigzag.
  track.replace([at(3), at(4), at(5), at(6)], [[0, "first"], [1, "second"], [2, "first"]]);
  assert.deepEqual(track.line, [at(4)]);
  assert.deepEqual(track.former, [[at(3), at(5), at(6)]]);
  assert.deepEqual(times(track), [3, 4, 5, 6]);
  track.add(at(5, 1));
  track.revise(4, 5, [at(4, 1), at(5, 1), at(5, 2)], [[0, "second"], [2, "first"]]);
  assert.deepEqual(track.line, [at(4, 1), at(5, 1)]);
  assert.deepEqual(track.former, [[at(3), at(5, 2), at(6)]]);
  assert.equal(track.countUntil(5), 2);
  track.giveTo("third");
  track.add(at(7));
  assert.deepEqual([track.line, track.former.length], [[at(7)], 2]);
});
