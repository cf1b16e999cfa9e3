import { bearing, distance } from "../shared/geo.js";

/** @typedef {import("../shared/messages.js").TrackPoint} TrackPoint */

/** A stretch shorter than this may be a standing receiver's noise, and has no direction. */
const SHORTEST_STRETCH = 12;
const LONGEST_LOOK_BACK = 200;

/** @typedef {import("../shared/messages.js").Segment} Segment */

/** The lines driven so far, one for each vehicle: points in the order of their fix times, one for each instant. */
export class Track {
  /** The vehicle that drives the trip now; a position that comes is of its line. */
  vehicle = "";

  /** Rises whenever anything but the end of the line has changed. */
  revision = 0;

  /** @type {Map<string, TrackPoint[]>} */
  #lines = new Map();

  /** What the vehicle that drives the trip now has driven of it. @returns {TrackPoint[]} */
  get line() {
    return this.#lines.get(this.vehicle) ?? [];
  }

  /** What others drove of it before. */
  get former() {
    return [...this.#lines].filter(([vehicle, line]) => vehicle !== this.vehicle && line.length).map(([, line]) => line);
  }

  /** All of it, by the times. */
  get points() {
    const { former } = this;
    return former.length ? [...former.flat(), ...this.line].sort(byTime) : this.line;
  }

  /**
   * Another vehicle drives the trip from now on.
   * @param {string} vehicle
   */
  giveTo(vehicle) {
    this.vehicle = vehicle;
    this.revision += 1;
  }

  /**
   * The whole track, anew.
   * @param {readonly TrackPoint[]} points
   * @param {readonly Segment[]} [segments] from which point on it is whose; left out where all is the present vehicle's
   */
  replace(points, segments) {
    this.#lines = new Map([...this.#apart(points, segments)].map(([vehicle, line]) => [vehicle, tidy(line)]));
    this.revision += 1;
  }

  /**
   * One more point. One that is late goes to its place; one whose instant is known already changes nothing.
   * @param {TrackPoint} point
   */
  add(point) {
    if (!isTrackPoint(point)) return;
    if (!this.#lines.has(this.vehicle)) this.#lines.set(this.vehicle, []);
    const { line } = this;
    const end = line.at(-1);
    if (!end || point[2] > end[2]) {
      line.push(point);
      return;
    }
    const index = countUntil(line, point[2]);
    if (line[index - 1]?.[2] === point[2]) return;
    line.splice(index, 0, point);
    this.revision += 1;
  }

  /**
   * Puts `points` in the place of everything from `from` to `to`, both included.
   * @param {number} from
   * @param {number} to
   * @param {readonly TrackPoint[]} points
   * @param {readonly Segment[]} [segments] as above
   */
  revise(from, to, points, segments) {
    const fresh = this.#apart(points, segments);
    for (const vehicle of new Set([...this.#lines.keys(), ...fresh.keys()])) {
      const line = this.#lines.get(vehicle) ?? [];
      const first = countUntil(line, from - 1);
      const replaced = Math.max(countUntil(line, to) - first, 0);
      const part = tidy(fresh.get(vehicle) ?? []).filter(([, , time]) => time >= from && time <= to);
      this.#lines.set(vehicle, [...line.slice(0, first), ...part, ...line.slice(first + replaced)]);
    }
    this.revision += 1;
  }

  /** @param {readonly TrackPoint[]} points @param {readonly Segment[]} [segments] @returns {Map<string, TrackPoint[]>} */
  #apart(points, segments = [[0, this.vehicle]]) {
    /** @type {Map<string, TrackPoint[]>} */
    const lines = new Map();
    segments.forEach(([index, vehicle], number) => {
      const part = points.slice(index, segments[number + 1]?.[0]);
      lines.set(vehicle, [...(lines.get(vehicle) ?? []), ...part]);
    });
    return lines;
  }

  /** Which way the end of the line points, or null for a line too short to tell. */
  get heading() {
    const place = (/** @type {TrackPoint} */ [longitude, latitude]) => ({ latitude, longitude });
    const { line } = this;
    const end = line.at(-1);
    if (!end) return null;
    for (const point of line.slice(-LONGEST_LOOK_BACK).reverse()) {
      if (distance(place(point), place(end)) >= SHORTEST_STRETCH) return bearing(place(point), place(end));
    }
    return null;
  }

  /**
   * How many points of the present vehicle's line were driven at `time` or before.
   * @param {number} time
   */
  countUntil(time) {
    return countUntil(this.line, time);
  }
}

/** @param {readonly TrackPoint[]} line @param {number} time */
function countUntil(line, time) {
  let low = 0;
  let high = line.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (line[middle][2] <= time) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** @param {TrackPoint} one @param {TrackPoint} other */
const byTime = (one, other) => one[2] - other[2];

/** @param {readonly TrackPoint[]} points */
function tidy(points) {
  const sorted = points.filter(isTrackPoint).sort(byTime);
  return sorted.filter((point, index) => point[2] !== sorted[index + 1]?.[2]);
}

/** @param {unknown} point */
function isTrackPoint(point) {
  return Array.isArray(point) && point.length >= 3 && point.slice(0, 3).every(Number.isFinite);
}
