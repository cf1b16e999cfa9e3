import { bearing, distance } from "./geo.js";

/** @typedef {import("./messages.js").TrackPoint} TrackPoint */

/** A stretch shorter than this may be a standing receiver's noise, and has no direction. */
const SHORTEST_STRETCH = 12;
const LONGEST_LOOK_BACK = 200;

/** The line driven so far: points in the order of their fix times, one for each instant. */
export class Track {
  /** @type {TrackPoint[]} */
  points = [];

  /** Rises whenever anything but the end of the line has changed. */
  revision = 0;

  /**
   * The whole line, anew.
   * @param {readonly TrackPoint[]} points
   */
  replace(points) {
    this.points = tidy(points);
    this.revision += 1;
  }

  /**
   * One more point. One that is late goes to its place; one whose instant is known already changes nothing.
   * @param {TrackPoint} point
   */
  add(point) {
    if (!isTrackPoint(point)) return;
    const end = this.points.at(-1);
    if (!end || point[2] > end[2]) {
      this.points.push(point);
      return;
    }
    const index = this.countUntil(point[2]);
    if (this.points[index - 1]?.[2] === point[2]) return;
    this.points.splice(index, 0, point);
    this.revision += 1;
  }

  /**
   * Puts `points` in the place of everything from `from` to `to`, both included.
   * @param {number} from
   * @param {number} to
   * @param {readonly TrackPoint[]} points
   */
  revise(from, to, points) {
    const first = this.countUntil(from - 1);
    const replaced = Math.max(this.countUntil(to) - first, 0);
    const fresh = tidy(points).filter(([, , time]) => time >= from && time <= to);
    this.points = [...this.points.slice(0, first), ...fresh, ...this.points.slice(first + replaced)];
    this.revision += 1;
  }

  /** Which way the end of the line points, or null for a line too short to tell. */
  get heading() {
    const place = (/** @type {TrackPoint} */ [longitude, latitude]) => ({ latitude, longitude });
    const end = this.points.at(-1);
    if (!end) return null;
    for (const point of this.points.slice(-LONGEST_LOOK_BACK).reverse()) {
      if (distance(place(point), place(end)) >= SHORTEST_STRETCH) return bearing(place(point), place(end));
    }
    return null;
  }

  /**
   * How many points were driven at `time` or before.
   * @param {number} time
   */
  countUntil(time) {
    let low = 0;
    let high = this.points.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.points[middle][2] <= time) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** @param {readonly TrackPoint[]} points */
function tidy(points) {
  const sorted = points.filter(isTrackPoint).sort((one, other) => one[2] - other[2]);
  return sorted.filter((point, index) => point[2] !== sorted[index + 1]?.[2]);
}

/** @param {unknown} point */
function isTrackPoint(point) {
  return Array.isArray(point) && point.length >= 3 && point.slice(0, 3).every(Number.isFinite);
}
