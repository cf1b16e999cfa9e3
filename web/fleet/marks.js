import { placeMarker } from "../markers.js";

/** @typedef {import("../messages.js").Trip} Trip */
/** @typedef {import("../messages.js").Place} Place */

/** A trip on the map: its places, and the route it plans. */
export class Marks {
  #group = L.layerGroup();
  #key = "";

  /** @param {L.Map} map */
  constructor(map) {
    this.#group.addTo(map);
  }

  /** @param {Pick<Trip, "pickup" | "dropoff" | "stops" | "route"> | null} trip */
  showTrip(trip) {
    const key = trip ? JSON.stringify([trip.pickup, trip.stops, trip.dropoff, trip.route]) : "";
    if (key === this.#key) return;
    this.#key = key;
    this.#group.clearLayers();
    if (!trip) return;
    const line = trip.route?.coordinates.map(([longitude, latitude]) => L.latLng(latitude, longitude));
    if (line) this.#group.addLayer(L.polyline(line, { className: "route", interactive: false, weight: 5 }));
    this.showPlaces(trip.pickup, trip.stops ?? [], trip.dropoff);
  }

  /** @param {Place} pickup @param {Place[]} stops @param {Place | null} dropoff */
  showPlaces(pickup, stops, dropoff) {
    this.#group.addLayer(placeMarker("pickup", pickup));
    for (const stop of stops) this.#group.addLayer(placeMarker("stop", stop));
    if (dropoff) this.#group.addLayer(placeMarker("dropoff", dropoff));
  }

  /** The bounds of what is shown. */
  static boundsOf(/** @type {Pick<Trip, "pickup" | "dropoff" | "stops">} */ { pickup, stops = [], dropoff }) {
    return L.latLngBounds([pickup, ...stops, dropoff].map(({ latitude, longitude }) => L.latLng(latitude, longitude)));
  }

  clear() {
    this.#key = "";
    this.#group.clearLayers();
  }
}
