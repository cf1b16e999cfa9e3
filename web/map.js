import { addBasemap } from "./basemap.js";
import { Camera } from "./camera.js";
import { CarMarker, placeMarker } from "./markers.js";
import { DAY, NIGHT } from "./palette.js";

/** @typedef {import("./motion.js").Shown} Shown */
/** @typedef {import("./messages.js").Trip} Trip */
/** @typedef {import("./track.js").Track} Track */

/** The map with the car, the line it drove, the route it plans, and the trip's places. */
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
   * @param {import("./basemap.js").BasemapSettings | undefined} basemap
   * @param {() => void} onTaken the passenger has moved the map themselves
   */
  constructor(element, basemap, onTaken) {
    const map = L.map(element, { zoomControl: false, attributionControl: false, maxZoom: 18, minZoom: 3, zoomAnimationThreshold: 6 });
    this.#map = map;
    this.camera = new Camera(map);
    L.control.attribution({ position: "bottomright", prefix: '<a href="https://leafletjs.com/" target="_blank" rel="noreferrer">Leaflet</a>' }).addTo(map);
    L.control.zoom({ position: "topright" }).addTo(map);
    // Left to itself a button zooms at the map's own middle, and half of the map lies under the panel.
    map.zoomIn = (steps = 1) => map.setZoomAround(this.camera.middle, map.getZoom() + steps);
    map.zoomOut = (steps = 1) => map.setZoomAround(this.camera.middle, map.getZoom() - steps);
    map.on("zoomstart", () => (this.#zooming = true)).on("zoomend", () => (this.#zooming = false));
    // Leaflet's own `movestart` comes from the camera too; these come from a hand alone.
    map.on("dragstart dblclick", onTaken);
    element.addEventListener("wheel", onTaken, { passive: true });
    element.addEventListener("touchstart", (event) => event.touches.length > 1 && onTaken(), { passive: true });
    // Leaflet's buttons let no click out; on the way in it can still be seen.
    element.querySelector(".leaflet-control-zoom")?.addEventListener("click", onTaken, { capture: true });
    element.addEventListener("keydown", (event) => /^(Arrow|[+=-]$)/.test(event.key) && onTaken());
    this.#dress(map, basemap);
  }

  /** @param {L.Map} map @param {import("./basemap.js").BasemapSettings | undefined} basemap */
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
    this.#places.clearLayers();
    this.#places.addLayer(placeMarker("pickup", trip.pickup));
    for (const stop of trip.stops ?? []) this.#places.addLayer(placeMarker("stop", stop));
    this.#places.addLayer(placeMarker("dropoff", trip.dropoff));
    const route = trip.route?.coordinates;
    this.#route.setLatLngs(Array.isArray(route) ? route.map(([longitude, latitude]) => L.latLng(latitude, longitude)) : []);
  }

  /**
   * Draws the car, and the line behind it: the line never runs ahead of the car, though more of it may be known.
   * @param {Shown} car
   * @param {Track} track
   */
  show(car, track) {
    // Leaflet moves markers itself while it zooms; a hand of ours in between makes them jump.
    if (this.#zooming) return;
    this.#car.show(this.#map, car);
    const count = track.countUntil(car.time);
    if (count !== this.#drawn.count || track.revision !== this.#drawn.revision) this.#drawTrack(track, count);
    const end = track.points[count - 1];
    const here = L.latLng(car.latitude, car.longitude);
    const tip = end ? [L.latLng(end[1], end[0]), here] : [];
    this.#tip.setLatLngs(tip);
  }

  /**
   * The line alone, where there is no car to end it.
   * @param {Track} track
   */
  showTrack(track) {
    this.#car.hide();
    this.#tip.setLatLngs([]);
    this.#drawTrack(track, track.points.length);
  }

  /** Takes away whatever tells where the vehicle is or was. */
  forget() {
    this.#car.hide();
    for (const line of [this.#edge, this.#driven, this.#tip]) line.setLatLngs([]);
  }

  /** @param {Track} track @param {number} count */
  #drawTrack(track, count) {
    const added = count - this.#drawn.count;
    if (track.revision === this.#drawn.revision && added === 1) {
      const [longitude, latitude] = track.points[count - 1];
      for (const line of [this.#edge, this.#driven]) line.addLatLng([latitude, longitude]);
    } else {
      const line = track.points.slice(0, count).map(([longitude, latitude]) => L.latLng(latitude, longitude));
      this.#edge.setLatLngs(line);
      this.#driven.setLatLngs(line);
    }
    this.#drawn = { revision: track.revision, count };
  }

  /** @param {boolean} stale */
  set stale(stale) {
    this.#car.stale = stale;
  }
}
