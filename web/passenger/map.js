import { addBasemap } from "../shared/basemap.js";
import { near, unrolled } from "../shared/geo.js";
import { CarMarker, placeMarker } from "../shared/markers.js";
import { DAY, NIGHT } from "../shared/palette.js";
import { Camera } from "./camera.js";

/** @typedef {import("../shared/motion.js").Shown} Shown */
/** @typedef {import("../shared/messages.js").Trip} Trip */
/** @typedef {import("./track.js").Track} Track */

/** The map with the car, its line, the planned route, and the trip's places. */
export class TripMap {
  camera;

  #map;
  #car = new CarMarker();
  #places = L.layerGroup();
  #route = L.polyline([], { className: "route", interactive: false, weight: 5 });
  #edge = L.polyline([], { className: "track-edge", interactive: false, weight: 9 });
  #driven = L.polyline([], { className: "track", interactive: false, weight: 5 });
  #tip = L.polyline([], { className: "track", interactive: false, weight: 5 });
  #drawn = { revision: -1, count: 0 };
  #zooming = false;
  #shape = "";

  /**
   * @param {HTMLElement} element
   * @param {import("../shared/basemap.js").BasemapSettings | undefined} basemap
   * @param {() => void} onTaken called when the passenger moves the map
   */
  constructor(element, basemap, onTaken) {
    const map = L.map(element, { zoomControl: false, attributionControl: false, maxZoom: 18, minZoom: 3, zoomAnimationThreshold: 6 });
    this.#map = map;
    this.camera = new Camera(map);
    L.control.attribution({ position: "bottomright", prefix: '<a href="https://leafletjs.com/" target="_blank" rel="noreferrer">Leaflet</a>' }).addTo(map);
    L.control.zoom({ position: "topright" }).addTo(map);
    // A button would zoom at the map's centre, but the panel covers half of the map.
    map.zoomIn = (steps = 1) => map.setZoomAround(this.camera.middle, map.getZoom() + steps);
    map.zoomOut = (steps = 1) => map.setZoomAround(this.camera.middle, map.getZoom() - steps);
    map.on("zoomstart", () => (this.#zooming = true)).on("zoomend", () => (this.#zooming = false));
    // The camera causes Leaflet's `movestart` too. Only a user causes these events.
    map.on("dragstart dblclick", onTaken);
    element.addEventListener("wheel", onTaken, { passive: true });
    element.addEventListener("touchstart", (event) => event.touches.length > 1 && onTaken(), { passive: true });
    // Leaflet's buttons stop clicks from bubbling, so the click is caught in the capture phase.
    element.querySelector(".leaflet-control-zoom")?.addEventListener("click", onTaken, { capture: true });
    element.addEventListener("keydown", (event) => /^(Arrow|[+=-]$)/.test(event.key) && onTaken());
    this.#dress(map, basemap);
  }

  /** @param {L.Map} map @param {import("../shared/basemap.js").BasemapSettings | undefined} basemap */
  #dress(map, basemap) {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const palette = () => (dark.matches ? NIGHT : DAY);
    const layer = basemap && addBasemap(map, basemap, palette());
    dark.addEventListener("change", () => layer?.repaint(palette()));
    for (const line of [this.#route, this.#edge, this.#driven, this.#tip, this.#places]) line.addTo(map);
  }

  /** @param {Trip} trip */
  showTrip(trip) {
    const key = JSON.stringify([trip.pickup, trip.dropoff, trip.stops, trip.route]);
    if (key === this.#shape) return;
    this.#shape = key;
    // Everything is drawn in the pickup's copy of the world, also past 180 degrees.
    this.camera.reference = trip.pickup.longitude;
    this.#drawn = { revision: -1, count: 0 };
    this.#places.clearLayers();
    this.#places.addLayer(placeMarker("pickup", trip.pickup));
    for (const stop of trip.stops ?? []) this.#places.addLayer(placeMarker("stop", this.#here(stop)));
    this.#places.addLayer(placeMarker("dropoff", this.#here(trip.dropoff)));
    const route = trip.route?.coordinates;
    this.#route.setLatLngs(Array.isArray(route) ? unrolled(route, trip.pickup.longitude) : []);
  }

  /**
   * Draws the car and the line behind it. The line ends at the car, even if more of it is known.
   * @param {Shown} car
   * @param {Track} track
   */
  show(car, track) {
    // Leaflet moves markers itself during a zoom. Moving them now would make them jump.
    if (this.#zooming) return;
    const here = this.#here(car);
    this.#car.show(this.#map, here);
    const count = track.countUntil(car.time);
    if (count !== this.#drawn.count || track.revision !== this.#drawn.revision) this.#drawTrack(track, count);
    const end = track.line[count - 1];
    this.#tip.setLatLngs(end ? [[end[1], near(end[0], here.longitude)], [here.latitude, here.longitude]] : []);
  }

  /**
   * Draws the line alone, when there is no car.
   * @param {Track} track
   */
  showTrack(track) {
    this.#car.hide();
    this.#tip.setLatLngs([]);
    this.#drawTrack(track, track.line.length);
  }

  /** Removes everything that shows where the vehicle is or was. */
  forget() {
    this.#car.hide();
    for (const line of [this.#edge, this.#driven, this.#tip]) line.setLatLngs([]);
    this.#drawn = { revision: -1, count: 0 };
  }

  /** @param {Track} track @param {number} count */
  #drawTrack(track, count) {
    const added = count - this.#drawn.count;
    if (track.revision === this.#drawn.revision && added === 1) {
      const [longitude, latitude] = track.line[count - 1];
      for (const drawn of [this.#edge, this.#driven]) {
        const line = /** @type {L.LatLng[]} */ (drawn.getLatLngs().at(-1));
        drawn.addLatLng([latitude, near(longitude, line.at(-1)?.lng ?? this.camera.reference)], line);
      }
    } else {
      // Each vehicle has its own line. Nobody drove between the end of one and the start of the next.
      const lines = [...track.former, track.line.slice(0, count)].map((line) => unrolled(line, this.camera.reference));
      this.#edge.setLatLngs(lines);
      this.#driven.setLatLngs(lines);
    }
    this.#drawn = { revision: track.revision, count };
  }

  /**
   * A place or a car, moved into the copy of the world that is drawn.
   * @template {import("../shared/geo.js").Point} Placed
   * @param {Placed} place
   * @returns {Placed}
   */
  #here(place) {
    return { ...place, longitude: near(place.longitude, this.camera.reference) };
  }

  /** @param {boolean} stale */
  set stale(stale) {
    this.#car.stale = stale;
  }
}
