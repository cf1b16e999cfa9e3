/** Geometry for short distances, such as between two fixes of a car. */

const METRES_PER_DEGREE = 111_195;
const RADIANS = Math.PI / 180;

/**
 * @typedef {object} Point
 * @property {number} latitude
 * @property {number} longitude
 */

/** @param {Point} from @param {Point} to metres east and north */
function offset(from, to) {
  const shrink = Math.cos(((from.latitude + to.latitude) / 2) * RADIANS);
  return {
    east: (near(to.longitude, from.longitude) - from.longitude) * METRES_PER_DEGREE * shrink,
    north: (to.latitude - from.latitude) * METRES_PER_DEGREE,
  };
}

/**
 * Metres between two points.
 * @param {Point} from
 * @param {Point} to
 */
export function distance(from, to) {
  const { east, north } = offset(from, to);
  return Math.hypot(east, north);
}

/**
 * Degrees clockwise from north, 0 to 360.
 * @param {Point} from
 * @param {Point} to
 */
export function bearing(from, to) {
  const { east, north } = offset(from, to);
  return normalize(Math.atan2(east, north) / RADIANS);
}

/**
 * The point reached by going `metres` along `heading`.
 * @param {Point} from
 * @param {number} heading
 * @param {number} metres
 * @returns {Point}
 */
export function travel(from, heading, metres) {
  const north = Math.cos(heading * RADIANS) * metres;
  const east = Math.sin(heading * RADIANS) * metres;
  const shrink = Math.max(Math.cos(from.latitude * RADIANS), 1e-6);
  return {
    latitude: from.latitude + north / METRES_PER_DEGREE,
    longitude: from.longitude + east / (METRES_PER_DEGREE * shrink),
  };
}

/**
 * A longitude moved by whole turns to be nearest to `reference`. It may pass 180 degrees.
 * @param {number} longitude
 * @param {number} reference
 */
export function near(longitude, reference) {
  return longitude + 360 * Math.round((reference - longitude) / 360);
}

/**
 * A longitude from -180 to 180. One in this range is unchanged.
 * @param {number} longitude
 */
export function wrap(longitude) {
  return longitude >= -180 && longitude <= 180 ? longitude : normalize(longitude + 180) - 180;
}

/**
 * A line as a map draws it. Each point is in the copy of the world of the point before it, the first in the reference's.
 * @param {readonly (readonly [longitude: number, latitude: number, ...unknown[]])[]} points
 * @param {number} reference a longitude
 * @returns {[latitude: number, longitude: number][]}
 */
export function unrolled(points, reference) {
  let last = reference;
  return points.map(([longitude, latitude]) => [latitude, (last = near(longitude, last))]);
}

/**
 * Any angle as 0 to 360.
 * @param {number} degrees
 */
export function normalize(degrees) {
  return ((degrees % 360) + 360) % 360;
}

/**
 * The shorter way from one bearing to another, -180 to 180.
 * @param {number} from
 * @param {number} to
 */
export function turn(from, to) {
  return normalize(to - from + 180) - 180;
}
