import { near, unrolled } from "../../shared/geo.js";
import { placeMarker } from "../../shared/markers.js";

/** @typedef {import("../../shared/messages.js").Trip} Trip */
/** @typedef {import("../../shared/messages.js").Place} Place */

/** A trip on the map: its places and its planned route. */
export class TripLayer {
  #group = L.layerGroup();
  #key = "";
  #map;

  /** @param {import("./map.js").FleetMap} map */
  constructor(map) {
    this.#map = map;
    this.#group.addTo(map.leaflet);
    map.keepNear(this.#group);
  }

  /** @param {Pick<Trip, "pickup" | "dropoff" | "stops" | "route"> | null} trip */
  showTrip(trip) {
    const key = trip ? JSON.stringify([trip.pickup, trip.stops, trip.dropoff, trip.route]) : "";
    if (key === this.#key) return;
    this.#key = key;
    this.#group.clearLayers();
    if (!trip) return;
    const line = trip.route && unrolled(trip.route.coordinates, near(trip.pickup.longitude, this.#map.middle));
    if (line) this.#group.addLayer(L.polyline(line, { className: "route", interactive: false, weight: 5 }));
    this.showPlaces(trip.pickup, trip.stops ?? [], trip.dropoff);
  }

  /** @param {Place} pickup @param {Place[]} stops @param {Place | null} dropoff */
  showPlaces(pickup, stops, dropoff) {
    const beside = this.#beside(pickup);
    this.#group.addLayer(placeMarker("pickup", beside(pickup)));
    for (const stop of stops) this.#group.addLayer(placeMarker("stop", beside(stop)));
    if (dropoff) this.#group.addLayer(placeMarker("dropoff", beside(dropoff)));
  }

  /** The bounds of what is shown. */
  boundsOf(/** @type {Pick<Trip, "pickup" | "dropoff" | "stops">} */ { pickup, stops = [], dropoff }) {
    const beside = this.#beside(pickup);
    return L.latLngBounds([pickup, ...stops, dropoff].map(beside).map(({ latitude, longitude }) => L.latLng(latitude, longitude)));
  }

  /** Moves places into the copy of the world that shows the pickup. @param {Place} pickup */
  #beside(pickup) {
    const reference = near(pickup.longitude, this.#map.middle);
    return (/** @type {Place} */ place) => ({ ...place, longitude: near(place.longitude, reference) });
  }

  clear() {
    this.#key = "";
    this.#group.clearLayers();
  }
}
