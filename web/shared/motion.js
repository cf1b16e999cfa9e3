import { bearing, distance, near, travel, turn, wrap } from "./geo.js";

/** @typedef {import("./geo.js").Point} Point */

/**
 * A fix to be shown. Instants are the device's. `heading` is the car's direction there, or null if it is unknown.
 * @typedef {Point & {time: number, speed: number, heading: number | null, leap: boolean}} Sample
 *
 * The place at which the car is drawn. `time` is the instant that it shows. `settled` says that it stays there without a new fix.
 * @typedef {Point & {bearing: number | null, time: number, settled: boolean}} Shown
 */

/** Milliseconds that the car may run ahead of the last fix, at its last speed. */
export const AHEAD = 1_500;
/** Milliseconds after a fix at which the car is at its place. It is short, because a passenger at the road needs the present place. */
export const LAG = 600;
/** Milliseconds. Fixes farther apart than this don't tell the speed between them. */
const LONGEST_INTERVAL = 20_000;
/** Milliseconds. A car that is farther behind is moved at once, without animation. */
const SNAP_AFTER = 30_000;
const CATCH_UP = 250;
const FASTEST = 20;
const GLIDE = 350;
const FARTHEST_GLIDE = 250;
const LEAP_DISTANCE = 1_000;
const LEAP_SPEED = 70;
/** Below this speed in m/s, a receiver's bearing is noise. */
const STANDING_SPEED = 1;
const STANDING_DISTANCE = 4;
const REMEMBERED = 8;

/**
 * Shows the fixes a little late, and runs a little ahead of the last one at its speed. So the car moves evenly, and is at its
 * known place within a second. Each call passes the time in milliseconds, which only rise.
 */
export class Motion {
  /** If true, the car is always at its last fix, without animation. */
  reduced = false;

  /** @type {Sample[]} */
  #samples = [];
  #playhead = 0;
  #frameAt = 0;
  /** @type {number[]} fix time minus arrival; the greatest had the least delay */
  #leads = [];
  /** The difference between the shown and the true place when a fix arrives. It fades. */
  #error = { latitude: 0, longitude: 0 };

  /** Forgets everything. */
  clear() {
    this.#samples = [];
    this.#leads = [];
    this.#error = { latitude: 0, longitude: 0 };
  }

  /**
   * Takes a fix. A fix that is not newer than the last is ignored.
   * @param {import("./messages.js").Position} fix
   * @param {number} now
   * @param {number | null} [heading] the last known direction, for a car that stands
   */
  push(fix, now, heading = null) {
    const last = this.#samples.at(-1);
    if (last && fix.fix_time <= last.time) return;
    const before = last ? this.#at(this.#playhead) : null;
    this.#leads.push(fix.fix_time - now);
    if (this.#leads.length > REMEMBERED) this.#leads.shift();
    this.#samples.push(sample(fix, last, heading));
    if (!last) {
      this.#playhead = fix.fix_time;
      this.#frameAt = now;
    }
    if (before) this.#glideFrom(before);
  }

  /**
   * The place at which the car is drawn at `now`, or null before the first fix.
   * @param {number} now
   * @returns {Shown | null}
   */
  frame(now) {
    const last = this.#samples.at(-1);
    if (!last) return null;
    const passed = Math.max(now - this.#frameAt, 0);
    this.#frameAt = now;
    if (this.reduced) {
      this.#playhead = last.time;
      this.#error = { latitude: 0, longitude: 0 };
    } else {
      this.#advance(passed, now, last);
    }
    this.#forgetPassed();
    const at = this.#at(this.#playhead);
    const off = this.#fadeError(passed, at);
    return {
      latitude: at.latitude + this.#error.latitude,
      longitude: wrap(at.longitude + this.#error.longitude),
      bearing: at.heading,
      time: Math.min(this.#playhead, last.time),
      settled: this.#playhead >= ceiling(last) && off < 0.05,
    };
  }

  /** @param {number} passed @param {number} now @param {Sample} last */
  #advance(passed, now, last) {
    const target = Math.min(now + Math.max(...this.#leads) - LAG, ceiling(last));
    const behind = target - this.#playhead;
    if (behind > SNAP_AFTER) {
      const before = this.#at(this.#playhead);
      this.#playhead = target;
      this.#glideFrom(before);
      return;
    }
    const rate = Math.min(Math.max(1 + behind / CATCH_UP, 0), FASTEST);
    this.#playhead = Math.max(this.#playhead, Math.min(this.#playhead + passed * rate, ceiling(last)));
  }

  /** Keeps the car where it was shown. The difference to its true place then fades, unless it is a leap. @param {Point} before */
  #glideFrom(before) {
    const after = this.#at(this.#playhead);
    const error = {
      latitude: before.latitude + this.#error.latitude - after.latitude,
      longitude: near(before.longitude + this.#error.longitude, after.longitude) - after.longitude,
    };
    const shown = { latitude: after.latitude + error.latitude, longitude: after.longitude + error.longitude };
    this.#error = distance(after, shown) <= FARTHEST_GLIDE ? error : { latitude: 0, longitude: 0 };
  }

  /** @param {number} passed @param {Point} at metres left */
  #fadeError(passed, at) {
    const kept = Math.exp(-passed / GLIDE);
    this.#error.latitude *= kept;
    this.#error.longitude *= kept;
    return distance(at, { latitude: at.latitude + this.#error.latitude, longitude: at.longitude + this.#error.longitude });
  }

  #forgetPassed() {
    while (this.#samples.length > 2 && this.#samples[1].time <= this.#playhead) this.#samples.shift();
  }

  /** @param {number} time @returns {Point & {heading: number | null}} */
  #at(time) {
    const samples = this.#samples;
    const last = samples[samples.length - 1];
    if (time >= last.time) return coast(last, time);
    let next = 0;
    while (samples[next].time <= time) next += 1;
    const to = samples[next];
    const from = samples[next - 1] ?? to;
    if (to.leap || from === to) return from;
    const share = (time - from.time) / (to.time - from.time);
    return {
      latitude: from.latitude + (to.latitude - from.latitude) * share,
      longitude: from.longitude + (near(to.longitude, from.longitude) - from.longitude) * share,
      heading: between(from.heading, to.heading, share),
    };
  }
}

/** @param {Sample} last returns the instant after which the car stands still without a new fix */
function ceiling(last) {
  return last.time + (last.speed > STANDING_SPEED && last.heading !== null ? AHEAD : 0);
}

/** @param {Sample} last @param {number} time */
function coast(last, time) {
  const ahead = Math.min(time, ceiling(last)) - last.time;
  if (ahead <= 0 || last.heading === null) return last;
  return { ...travel(last, last.heading, (last.speed * ahead) / 1_000), heading: last.heading };
}

/** @param {number | null} from @param {number | null} to @param {number} share */
function between(from, to, share) {
  if (from === null || to === null) return to ?? from;
  return (from + turn(from, to) * share + 360) % 360;
}

/** @param {import("./messages.js").Position} fix @param {Sample | undefined} last @param {number | null} heading @returns {Sample} */
function sample(fix, last, heading) {
  const { latitude, longitude, fix_time: time } = fix;
  const moved = last ? distance(last, fix) : 0;
  const seconds = last ? (time - last.time) / 1_000 : 0;
  const derived = seconds > 0 ? moved / seconds : 0;
  const leap = moved > LEAP_DISTANCE || (moved > FARTHEST_GLIDE && derived > LEAP_SPEED);
  const speed = fix.speed ?? (leap || seconds * 1_000 > LONGEST_INTERVAL ? 0 : derived);
  return { latitude, longitude, time, speed, leap, heading: headingOf(fix, last, moved, last?.heading ?? heading, leap) };
}

/** @param {import("./messages.js").Position} fix @param {Sample | undefined} last @param {number} moved @param {number | null} known @param {boolean} leap */
function headingOf(fix, last, moved, known, leap) {
  const standing = fix.speed === undefined ? last !== undefined && moved < STANDING_DISTANCE : fix.speed < STANDING_SPEED;
  if (fix.bearing !== undefined && (!standing || known === null)) return fix.bearing % 360;
  if (fix.bearing === undefined && last && !leap && !standing && moved >= STANDING_DISTANCE) return bearing(last, fix);
  return known;
}
