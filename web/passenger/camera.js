import { near, travel } from "../shared/geo.js";

/** @typedef {import("../shared/geo.js").Point} Point */

/** @typedef {{top: number, right: number, bottom: number, left: number}} Margins pixels at the map's edges that other things cover */

const CLOSEST = 16;
/** If the car and its goal don't fit at this zoom, only the car is shown. */
const FARTHEST = 12;
const ALONE = 15;
const REST = 2_500;
const ROOM = 0.16;

/** Keeps the car and its goal in view. It stops when the passenger moves the map. */
export class Camera {
  follow = true;

  /** @type {Margins} */
  margins = { top: 0, right: 0, bottom: 0, left: 0 };
  reduced = false;
  /** A longitude. Everything is drawn in the copy of the world that contains it. */
  reference = 0;

  #map;
  #movedAt = -Infinity;

  /** @param {L.Map} map */
  constructor(map) {
    this.#map = map;
  }

  /**
   * Shows all of `points`.
   * @param {Point[]} points
   */
  frame(points) {
    const bounds = L.latLngBounds(points.map((point) => this.#placeOf(point)));
    const zoom = Math.min(this.#zoomFor(bounds), CLOSEST);
    this.#go(bounds.getCenter(), zoom, true);
  }

  /**
   * Moves the map only if the car leaves the middle area, or if a closer zoom shows both the car and its goal.
   * @param {import("../shared/motion.js").Shown} car
   * @param {Point | null} goal
   * @param {number} now
   * @param {boolean} [must] move in any case
   */
  attend(car, goal, now, must = false) {
    if (!this.follow) return;
    const both = goal && L.latLngBounds(this.#placeOf(car), this.#placeOf(goal));
    const fitting = both ? Math.min(this.#zoomFor(both), CLOSEST) : 0;
    const together = both !== null && fitting >= FARTHEST;
    const zoom = together ? fitting : ALONE;
    const current = this.#map.getZoom();
    const nearer = zoom > current && now - this.#movedAt > REST;
    const apart = together && zoom < current && !this.#isInside(/** @type {Point} */ (goal), 0);
    if (!must && !nearer && !apart && this.#isInside(car, ROOM)) return;
    this.#movedAt = now;
    this.#go(together ? both.getCenter() : this.#ahead(car, zoom), zoom, must);
  }

  /** The middle of the uncovered part of the map, in pixels. */
  get middle() {
    const { x, y } = this.#free();
    return L.point(this.margins.left + x / 2, this.margins.top + y / 2);
  }

  /** The centre of the map that leaves most free space in front of the car. @param {import("../shared/motion.js").Shown} car @param {number} zoom */
  #ahead(car, zoom) {
    const metresPerPixel = (40_075_017 * Math.cos((car.latitude * Math.PI) / 180)) / 2 ** (zoom + 8);
    const size = this.#free();
    const reach = 0.2 * Math.min(size.x, size.y) * metresPerPixel;
    const { latitude, longitude } = car.bearing === null ? car : travel(car, car.bearing, reach);
    return this.#placeOf({ latitude, longitude });
  }

  /** @param {Point} point */
  #placeOf({ latitude, longitude }) {
    return L.latLng(latitude, near(longitude, this.reference));
  }

  /** @param {L.LatLngBounds} bounds */
  #zoomFor(bounds) {
    const { top, right, bottom, left } = this.margins;
    return this.#map.getBoundsZoom(bounds, false, L.point(left + right, top + bottom));
  }

  #free() {
    const { top, right, bottom, left } = this.margins;
    const size = this.#map.getSize();
    return L.point(Math.max(size.x - left - right, 80), Math.max(size.y - top - bottom, 80));
  }

  /** @param {Point} point @param {number} room the share of the free space to leave at each edge */
  #isInside(point, room) {
    const { x, y } = this.#map.latLngToContainerPoint(this.#placeOf(point));
    const size = this.#free();
    const across = (x - this.margins.left) / size.x;
    const down = (y - this.margins.top) / size.y;
    return across >= room && across <= 1 - room && down >= room && down <= 1 - room;
  }

  /** @param {L.LatLng} middle @param {number} zoom @param {boolean} swift */
  #go(middle, zoom, swift) {
    const { top, right, bottom, left } = this.margins;
    const center = this.#map.project(middle, zoom).add(L.point((right - left) / 2, (bottom - top) / 2));
    const animate = !this.reduced;
    this.#map.setView(this.#map.unproject(center, zoom), zoom, { animate, duration: swift ? 0.5 : 1.2, easeLinearity: 0.4 });
  }
}
