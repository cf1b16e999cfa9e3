/** The part of the map that is shown when the page is loaded. */

import { near } from "../../shared/geo.js";

/** @typedef {[south: number, west: number, north: number, east: number]} Box */
/** @typedef {{latitude: number, longitude: number}} Point */

const KEY = "tracking.fleet.view.";
/** @type {Box} */
const WORLD = [-50, -120, 65, 150];

/** Shows the dispatcher's last view, or else most of the fleet. If neither is known, it shows the world until vehicles arrive. */
export class InitialView {
  #map;
  #key;
  #lost = false;

  /** @param {import("./map.js").FleetMap} map @param {string} fleetId */
  constructor(map, fleetId) {
    this.#map = map;
    this.#key = KEY + fleetId;
  }

  recall() {
    try {
      const box = JSON.parse(localStorage.getItem(this.#key) ?? "null");
      if (Array.isArray(box) && box.length === 4 && box.every(Number.isFinite)) this.#look(/** @type {Box} */ (box));
    } catch {
      // Without storage, the page begins with the whole fleet.
    }
  }

  remember() {
    const { leaflet } = this.#map;
    const bounds = leaflet.getBounds();
    const box = [bounds.getSouth(), bounds.getWest(), bounds.getNorth(), bounds.getEast()];
    try {
      localStorage.setItem(this.#key, JSON.stringify(box.map((degrees) => Number(degrees.toFixed(5)))));
    } catch {
      // As above.
    }
  }

  /** @param {Point[]} places known positions of vehicles */
  begin(places) {
    if (this.#map.isBegun) return;
    this.#lost = places.length === 0;
    this.#look(boxAround(places) ?? WORLD);
  }

  /** Shows the first vehicles in view, if the fleet's place was unknown before. @param {import("../state/vehicles.js").Vehicles} vehicles */
  find({ byId }) {
    if (!this.#lost || !byId.size) return;
    this.#lost = false;
    this.#look(boxAround([...byId.values()]) ?? WORLD);
  }

  /** @param {Box} box */
  #look([south, west, north, east]) {
    this.#map.begin([[south, west], [north, east]]);
  }
}

/**
 * A box around most vehicles. One that was driven abroad must not shrink all others to a dot.
 * @param {Point[]} places
 * @returns {Box | null}
 */
export function boxAround(places) {
  if (!places.length) return null;
  const latitudes = inner(places.map(({ latitude }) => latitude));
  // Longitudes are taken near the first, so that the box of a fleet on the antimeridian does not span the world.
  const longitudes = inner(places.map(({ longitude }) => near(longitude, places[0].longitude)));
  const room = 0.005;
  return [latitudes[0] - room, longitudes[0] - room, latitudes[1] + room, longitudes[1] + room];
}

/** Without the outermost twentieth on either side. @param {number[]} numbers */
function inner(numbers) {
  const sorted = numbers.sort((one, other) => one - other);
  const cut = Math.floor(sorted.length / 20);
  return [sorted[cut], sorted[sorted.length - 1 - cut]];
}
