import assert from "node:assert/strict";
import { test } from "node:test";

import { bearing, distance, travel, turn } from "../../shared/geo.js";
import { AHEAD, Motion } from "../../shared/motion.js";
import { seeded } from "../random.js";

const HOME = { latitude: 47.141, longitude: 9.521 };
const START = 1_700_000_000_000;

/** @typedef {{latitude: number, longitude: number, fix_time: number, server_time: number, speed?: number, bearing?: number}} Fix */

/** @param {number} seconds @param {{latitude: number, longitude: number}} place @param {Partial<Fix>} [more] @returns {Fix} */
const fix = (seconds, { latitude, longitude }, more = {}) => ({ latitude, longitude, fix_time: START + seconds * 1_000, server_time: START + seconds * 1_000, ...more });

/** Feeds fixes as they arrive and looks at every frame. @param {{at: number, fix: Fix}[]} arrivals @param {number} until @param {(shown: import("../../shared/motion.js").Shown, now: number, known: Fix) => void} look */
function play(arrivals, until, look, motion = new Motion()) {
  const waiting = [...arrivals];
  /** @type {Fix | null} */
  let known = null;
  for (let now = 0; now <= until; now += 16) {
    while (waiting.length && waiting[0].at <= now) {
      const next = /** @type {{at: number, fix: Fix}} */ (waiting.shift());
      motion.push(next.fix, now);
      if (!known || next.fix.fix_time > known.fix_time) known = next.fix;
    }
    const shown = motion.frame(now);
    if (shown && known) look(shown, now, known);
  }
  return motion;
}

const north = (/** @type {number} */ metres) => travel(HOME, 0, metres);

test("nothing is shown before the first fix", () => assert.equal(new Motion().frame(0), null));

test("an even drive is shown evenly, and never far ahead of what is known", () => {
  const arrivals = Array.from({ length: 20 }, (_, index) => ({ at: 300 + index * 2_000, fix: fix(index * 2, north(index * 24), { speed: 12, bearing: 0 }) }));
  let last = 0;
  play(arrivals, 38_000, (shown, now, known) => {
    const driven = distance(HOME, shown);
    assert.ok(driven >= last - 0.01, "never backwards");
    if (now > 10_000) assert.ok(driven - last < 12 * 0.016 * 1.6, `steady at ${now}: ${driven - last}`);
    if (now > 10_000) assert.ok(distance(shown, known) < 24 * 2.2, "not far behind");
    assert.ok(driven <= distance(HOME, known) + 12 * (AHEAD / 1_000) + 0.1, "no further ahead than it may be");
    last = driven;
  });
});

for (const interval of [1, 2, 5, 15]) {
  test(`within a second of its arrival the car is at a fix, ${interval} s after the one before`, () => {
    const arrivals = Array.from({ length: 8 }, (_, index) => ({
      at: 100 + index * interval * 1_000,
      fix: fix(index * interval, north(index * interval * 12), { speed: 12, bearing: 0 }),
    }));
    play(arrivals, arrivals[7].at + 2_000, (shown, now, known) => {
      const arrived = arrivals.findLast(({ at }) => at <= now);
      if (arrived && now - arrived.at >= 1_000) assert.ok(distance(shown, known) <= 12 * (AHEAD / 1_000) + 0.1, `at ${now}`);
      if (arrived && now - arrived.at >= 1_000) assert.ok(distance(HOME, shown) >= distance(HOME, known) - 1, `behind at ${now}`);
    });
  });
}

test("without a new fix the car runs on a little, and then settles", () => {
  const motion = new Motion();
  const arrivals = [0, 1, 2].map((index) => ({ at: index * 2_000, fix: fix(index * 2, north(index * 20), { speed: 10, bearing: 0 }) }));
  let end = 0;
  play(arrivals, 20_000, (shown) => (end = distance(HOME, shown)), motion);
  assert.ok(end > 40 && end <= 40 + 10 * (AHEAD / 1_000) + 0.1, String(end));
  assert.equal(motion.frame(20_016)?.settled, true);
});

test("the bearing goes the shorter way round and follows the motion where the device gives none", () => {
  const east = travel(HOME, 350, 40);
  const arrivals = [
    { at: 0, fix: fix(0, HOME) },
    { at: 2_000, fix: fix(2, east) },
    { at: 4_000, fix: fix(4, travel(east, 10, 40)) },
    { at: 6_000, fix: fix(6, travel(travel(east, 10, 40), 10, 40)) },
  ];
  play(arrivals, 12_000, (shown) => {
    if (shown.bearing !== null) assert.ok(Math.abs(turn(0, shown.bearing)) < 12, String(shown.bearing));
  });
});

test("a standing car doesn't spin, whatever its receiver says", () => {
  const { random } = seeded(7);
  const drive = [0, 1, 2, 3].map((index) => ({ at: index * 2_000, fix: fix(index * 2, north(index * 20), { speed: 10, bearing: 0 }) }));
  const stand = Array.from({ length: 20 }, (_, index) => ({
    at: (index + 4) * 2_000,
    fix: fix((index + 4) * 2, travel(north(60), random() * 360, random() * 1.5), index % 2 ? { speed: 0.2, bearing: random() * 360 } : {}),
  }));
  play([...drive, ...stand], 50_000, (shown) => assert.ok(Math.abs(turn(0, shown.bearing ?? 0)) < 1e-6));
});

test("a car first seen standing takes the heading of the line it came by", () => {
  const motion = new Motion();
  motion.push(fix(0, HOME, { speed: 0 }), 0, 80);
  assert.equal(motion.frame(1)?.bearing, 80);
});

test("a leap is a leap: nothing is drawn between", () => {
  const far = north(5_000);
  const arrivals = [{ at: 0, fix: fix(0, HOME) }, { at: 2_000, fix: fix(2, far) }, { at: 4_000, fix: fix(4, far) }];
  play(arrivals, 10_000, (shown) => assert.ok(Math.min(distance(shown, HOME), distance(shown, far)) < 1));
});

test("after a long silence the car is set down, near places are glided to", () => {
  const steps = (/** @type {number} */ metres) => {
    let widest = 0;
    let last = HOME;
    play([{ at: 0, fix: fix(0, HOME) }, { at: 90_000, fix: fix(90, north(metres)) }], 100_000, (shown) => {
      widest = Math.max(widest, distance(last, shown));
      last = shown;
    });
    assert.ok(distance(last, north(metres)) < 1);
    return widest;
  };
  assert.ok(steps(900) > 400);
  assert.ok(steps(60) < 10);
});

test("fixes out of order and repeated change nothing", () => {
  const motion = new Motion();
  motion.push(fix(10, HOME), 0);
  motion.push(fix(4, north(900)), 10);
  motion.push(fix(10, north(900)), 20);
  assert.ok(distance(/** @type {any} */ (motion.frame(5_000)), HOME) < 0.01);
});

test("with reduced motion the car is at its last fix", () => {
  const motion = new Motion();
  motion.reduced = true;
  for (const index of [0, 1, 2]) motion.push(fix(index * 2, north(index * 30)), index * 2_000);
  const shown = motion.frame(4_016);
  assert.ok(distance(/** @type {any} */ (shown), north(60)) < 0.01);
  assert.equal(shown?.time, START + 4_000);
});

test("over a bad line the car neither jumps nor runs ahead, whatever the arrival", () => {
  for (let seed = 1; seed <= 150; seed += 1) {
    const { random, integer, chance } = seeded(seed);
    let place = HOME;
    let heading = random() * 360;
    let seconds = 0;
    let arrival = 0;
    const arrivals = [];
    for (let index = 0; index < 40; index += 1) {
      const pause = integer(1, 6);
      const speed = chance(0.2) ? 0 : random() * 25;
      heading = (heading + (random() - 0.5) * 60 + 360) % 360;
      place = travel(place, heading, speed * pause);
      seconds += pause;
      arrival = Math.max(arrival, seconds * 1_000 + (chance(0.1) ? integer(0, 9_000) : integer(0, 400)));
      arrivals.push({ at: arrival, fix: fix(seconds, place, chance(0.5) ? { speed, bearing: heading } : {}) });
    }
    /** @type {import("../../shared/motion.js").Shown | null} */
    let last = null;
    play(arrivals, arrival + 8_000, (shown, now, known) => {
      assert.ok(Number.isFinite(shown.latitude) && Number.isFinite(shown.longitude));
      assert.ok(shown.bearing === null || (shown.bearing >= 0 && shown.bearing <= 360));
      assert.ok(shown.time <= known.fix_time, "the line never runs past the car's last fix");
      if (last) {
        assert.ok(shown.time >= last.time, "time runs forward");
        assert.ok(distance(last, shown) < 12, `seed ${seed}: ${distance(last, shown)} m in one frame at ${now}`);
      }
      last = shown;
    });
    assert.ok(last && distance(last, place) < 25 * (AHEAD / 1_000) + 1, `seed ${seed}: settles near the last fix`);
  }
});

test("geometry agrees with itself", () => {
  const { random } = seeded(3);
  for (let round = 0; round < 200; round += 1) {
    const heading = random() * 360;
    const metres = 1 + random() * 3_000;
    const there = travel(HOME, heading, metres);
    assert.ok(Math.abs(distance(HOME, there) - metres) < metres / 500);
    assert.ok(Math.abs(turn(heading, bearing(HOME, there))) < 0.2);
  }
});
