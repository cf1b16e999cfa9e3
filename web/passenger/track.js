import { bearing, distance } from "../shared/geo.js";

/** @typedef {import("../shared/messages.js").TrackPoint} TrackPoint */

/** A shorter way in metres may be noise of a standing receiver, and has no direction. */
const SHORTEST_STRETCH = 12;
const LONGEST_LOOK_BACK = 200;

/** @typedef {import("../shared/messages.js").Segment} Segment */

/** The lines driven so far, one for each vehicle. Points are in the order of fix times, with one for each instant. */
export class Track {
  /** The trip's present vehicle. New positions are added to its line. */
  vehicle = "";

  /** Rises when anything but the end of the line changes. */
  revision = 0;

  /** @type {Map<string, TrackPoint[]>} */
  #lines = new Map();

  /** The line of the trip's present vehicle. @returns {TrackPoint[]} */
  get line() {
    return this.#lines.get(this.vehicle) ?? [];
  }

  /** The lines of the vehicles before it. */
  get former() {
    return [...this.#lines].filter(([vehicle, line]) => vehicle !== this.vehicle && line.length).map(([, line]) => line);
  }

  /** All points, in the order of time. */
  get points() {
    const { former } = this;
    return former.length ? [...former.flat(), ...this.line].sort(byTime) : this.line;
  }

  /**
   * Changes the trip's present vehicle.
   * @param {string} vehicle
   */
  giveTo(vehicle) {
    this.vehicle = vehicle;
    this.revision += 1;
  }

  /**
   * Replaces the whole track.
   * @param {readonly TrackPoint[]} points
   * @param {readonly Segment[]} [segments] the vehicle from each index on; missing if the present vehicle drove all
   */
  replace(points, segments) {
    this.#lines = new Map([...this.#apart(points, segments)].map(([vehicle, line]) => [vehicle, tidy(line)]));
    this.revision += 1;
  }

  /**
   * Adds points to the lines, each in the order of time. A point whose instant is known already is ignored.
   * @param {readonly TrackPoint[]} points
   * @param {readonly Segment[]} [segments] as above
   */
  merge(points, segments) {
    for (const [vehicle, more] of this.#apart(points, segments)) {
      const line = this.#lines.get(vehicle) ?? [];
      const known = new Set(line.map(([, , time]) => time));
      this.#lines.set(vehicle, tidy([...line, ...more.filter((point) => isTrackPoint(point) && !known.has(point[2]))]));
    }
    this.revision += 1;
  }

  /**
   * Adds a point in the order of time. A point whose instant is known already is ignored.
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
   * Replaces everything from `from` to `to`, both included, by `points`.
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

  /** The direction of the line's end, or null if the line is too short. */
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
   * The number of points of the present vehicle's line up to `time`.
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
