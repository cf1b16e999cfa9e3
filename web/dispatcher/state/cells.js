import { wrap } from "../../shared/geo.js";

/** The grid of the hub: web mercator tiles at one zoom. The hub sends the cells that a viewport touches. */

/** @typedef {[west: number, south: number, east: number, north: number]} Bounds degrees; west > east means across the date line */
/** @typedef {{x: number, y: number}} WorldPoint web mercator, the world as 0 to 1 from its north-west corner */

export const CELL_ZOOM = 14;
const CELLS = 2 ** CELL_ZOOM;
const RADIANS = Math.PI / 180;
/** The northern limit of web mercator, in degrees. */
const FARTHEST_NORTH = 85.0511287798066;

/**
 * @param {number} latitude
 * @param {number} longitude
 * @returns {WorldPoint}
 */
export function project(latitude, longitude) {
  const sine = Math.sin(Math.min(Math.max(latitude, -FARTHEST_NORTH), FARTHEST_NORTH) * RADIANS);
  return { x: longitude / 360 + 0.5, y: 0.5 - Math.log((1 + sine) / (1 - sine)) / (4 * Math.PI) };
}

/** @param {number} share */
const index = (share) => Math.min(Math.max(Math.floor(share * CELLS), 0), CELLS - 1);

/**
 * The name of the cell that a world point lies in.
 * @param {WorldPoint} point
 */
export function cellOf({ x, y }) {
  return `${CELL_ZOOM}/${index(x)}/${index(y)}`;
}

/** The cells that a viewport touches. They are not listed, because a wide view has millions. */
export class Area {
  #west;
  #east;
  #north;
  #south;

  /** @param {Bounds} bounds */
  constructor([west, south, east, north]) {
    const corner = project(north, west);
    const other = project(south, east);
    this.#west = index(corner.x);
    this.#east = index(other.x);
    this.#north = index(corner.y);
    this.#south = index(other.y);
  }

  /** @param {WorldPoint} point */
  holds(point) {
    const x = index(point.x);
    const y = index(point.y);
    if (y < this.#north || y > this.#south) return false;
    return this.#west <= this.#east ? x >= this.#west && x <= this.#east : x >= this.#west || x <= this.#east;
  }
}

/**
 * A map's bounds in the hub's form. Leaflet's longitudes pass 180 degrees when the map is dragged round the world.
 * @param {number} west
 * @param {number} south
 * @param {number} east
 * @param {number} north
 * @returns {Bounds}
 */
export function boundsOf(west, south, east, north) {
  const low = Math.max(south, -90);
  const high = Math.min(north, 90);
  if (east - west >= 360) return [-180, low, 180, high];
  return [wrap(west), low, wrap(east), high];
}
