import { addBasemap } from "../../shared/basemap.js";
import { byId } from "../../shared/dom.js";
import { near } from "../../shared/geo.js";
import { DAY, NIGHT } from "../../shared/palette.js";
import { boundsOf } from "../state/cells.js";
import { VehicleLayer } from "./vehicle_layer.js";

/** @typedef {import("../state/vehicles.js").Vehicle} Vehicle */

/** Milliseconds without movement after which the viewport is sent, so that a drag sends it once. */
const REST = 100;
const CLOSE_ZOOM = 15;
const FLASH = 4_000;
/** Pixels between the edge and what must be visible. */
const ROOM = 48;

/**
 * @typedef {object} MapEvents
 * @property {(bounds: import("../state/cells.js").Bounds, zoom: number) => void} onView the map shows something else
 * @property {(vehicle: Vehicle | null) => void} onVehicle a click on a vehicle, or on none
 */

/** The map of the fleet: the basemap, the vehicles' canvas, and what the pointer is on. */
export class FleetMap {
  vehicles;
  leaflet;
  /** Gets the clicks on the map while the user places something. @type {((place: {latitude: number, longitude: number}) => void) | null} */
  onPlace = null;

  #events;
  /** @type {number | undefined} */
  #timer;

  /**
   * @param {HTMLElement} element
   * @param {import("../../shared/basemap.js").BasemapSettings | undefined} basemap
   * @param {import("../state/vehicles.js").Vehicles} vehicles
   * @param {MapEvents} events
   */
  constructor(element, basemap, vehicles, events) {
    this.#events = events;
    const map = L.map(element, { zoomControl: false, attributionControl: false, maxZoom: 18, minZoom: 3, worldCopyJump: true });
    this.leaflet = map;
    L.control.attribution({ position: "bottomright", prefix: '<a href="https://leafletjs.com/" target="_blank" rel="noreferrer">Leaflet</a>' }).addTo(map);
    L.control.zoom({ position: "topleft" }).addTo(map);
    L.control.scale({ position: "bottomleft", imperial: false }).addTo(map);
    // Above lines and areas, below the markers of places and of the replay.
    const pane = map.createPane("vehicles");
    pane.style.zIndex = "450";
    pane.style.pointerEvents = "none";
    this.vehicles = new VehicleLayer(vehicles);
    this.#dress(basemap);
    map.on("moveend", () => this.#soon());
    map.on("click", (event) => this.#clicked(event));
    map.on("mousemove", (event) => this.#hover(event.containerPoint));
    map.on("mouseout", () => this.#hover(null));
    new ResizeObserver(() => map.invalidateSize({ animate: false, debounceMoveend: true })).observe(element);
    new ResizeObserver(() => this.#arrange()).observe(byId("replay"));
  }

  /** @param {import("../../shared/basemap.js").BasemapSettings | undefined} basemap */
  #dress(basemap) {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const palette = () => (dark.matches ? NIGHT : DAY);
    const layer = basemap && addBasemap(this.leaflet, basemap, palette());
    dark.addEventListener("change", () => {
      layer?.repaint(palette());
      this.vehicles.repaint();
    });
  }

  /** Sets the first view. Leaflet shows nothing before it. @param {L.LatLngBoundsExpression} bounds */
  begin(bounds) {
    this.leaflet.fitBounds(bounds, { animate: false, maxZoom: CLOSE_ZOOM });
    if (!this.isBegun) this.vehicles.addTo(this.leaflet);
  }

  get isBegun() {
    return this.leaflet.hasLayer(this.vehicles);
  }

  /** The viewport in the hub's form. */
  get view() {
    const bounds = this.leaflet.getBounds();
    return { bounds: boundsOf(bounds.getWest(), bounds.getSouth(), bounds.getEast(), bounds.getNorth()), zoom: this.leaflet.getZoom() };
  }

  /** Whether a place is on the screen, and not only in a grid cell that the screen touches. @param {{latitude: number, longitude: number}} place */
  shows({ latitude, longitude }) {
    return this.leaflet.getBounds().contains(this.placeOf({ latitude, longitude }));
  }

  /** A place in the copy of the world that the map shows. @param {{latitude: number, longitude: number}} place @returns {[number, number]} */
  placeOf({ latitude, longitude }) {
    return [latitude, near(longitude, this.middle)];
  }

  /** The longitude in the middle of the screen. */
  get middle() {
    return this.isBegun ? this.leaflet.getCenter().lng : 0;
  }

  /** Moves a group's layers when the map is dragged across the antimeridian, into the next copy of the world. @param {L.LayerGroup} group */
  keepNear(group) {
    this.leaflet.on("moveend", () => turnTo(group, this.middle));
  }

  /** Moves there, and zooms in if the map is far away. @param {{latitude: number, longitude: number}} place @param {number} [closest] */
  goTo(place, closest = CLOSE_ZOOM) {
    const zoom = Math.max(this.leaflet.getZoom(), closest);
    const { right, bottom } = this.#covered();
    const middle = this.leaflet.project(this.placeOf(place), zoom).add([right / 2, bottom / 2]);
    this.leaflet.setView(this.leaflet.unproject(middle, zoom), zoom);
  }

  /** Moves only if the place is off the screen or under a card. @param {{latitude: number, longitude: number}} place */
  reveal(place) {
    if (!this.shows(place)) {
      this.goTo(place);
      return;
    }
    const { x, y } = this.leaflet.latLngToContainerPoint(this.placeOf(place));
    const size = this.leaflet.getSize();
    const { right, bottom } = this.#covered();
    if (x > size.x - right || y > size.y - bottom) this.goTo(place, 0);
  }

  /** The part of the map under the card and the replay. */
  #covered() {
    const map = this.leaflet.getContainer().getBoundingClientRect();
    const [card, replay] = ["card", "replay"].map((id) => byId(id).getBoundingClientRect());
    const overlaps = (/** @type {DOMRect} */ box) => box.width > 0 && box.top < map.bottom && box.left < map.right;
    return { right: overlaps(card) ? map.right - card.left : 0, bottom: overlaps(replay) ? map.bottom - replay.top : 0 };
  }

  /** Moves there and marks the place for a moment. @param {{latitude: number, longitude: number}} place */
  flash(place) {
    this.goTo(place);
    const icon = L.divIcon({ className: "flash", iconSize: [0, 0] });
    const marker = L.marker(this.placeOf(place), { icon, interactive: false, keyboard: false }).addTo(this.leaflet);
    setTimeout(() => marker.remove(), FLASH);
  }

  /** @param {L.LatLngBounds} bounds */
  fit(bounds) {
    if (!bounds.isValid()) return;
    const { right, bottom } = this.#covered();
    this.leaflet.fitBounds(bounds, { maxZoom: CLOSE_ZOOM + 1, paddingTopLeft: [ROOM, ROOM], paddingBottomRight: [ROOM + right, ROOM + bottom] });
  }

  /** Puts credits and scale above what covers the map's lower edge. */
  #arrange() {
    document.documentElement.style.setProperty("--covered", `${this.#covered().bottom}px`);
  }

  /** Sends clicks on the map to `onPlace`, until it is null. @param {((place: {latitude: number, longitude: number}) => void) | null} onPlace */
  place(onPlace) {
    this.onPlace = onPlace;
    this.leaflet.getContainer().classList.toggle("placing", onPlace !== null);
  }

  #soon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#events.onView(this.view.bounds, this.view.zoom), REST);
  }

  /** @param {L.LeafletMouseEvent} event */
  #clicked({ containerPoint, latlng, originalEvent }) {
    if (this.leaflet.pm?.globalDrawModeEnabled()) return;
    if (this.onPlace) {
      const { lat: latitude, lng: longitude } = latlng.wrap();
      this.onPlace({ latitude, longitude });
      return;
    }
    const cluster = this.vehicles.clusterAt(containerPoint);
    if (cluster) {
      this.leaflet.setView(this.placeOf({ latitude: cluster[0], longitude: cluster[1] }), this.leaflet.getZoom() + 2);
      return;
    }
    const finger = /** @type {PointerEvent} */ (/** @type {unknown} */ (originalEvent)).pointerType === "touch";
    this.#events.onVehicle(this.vehicles.vehicleAt(containerPoint, finger));
  }

  /** @param {L.Point | null} point */
  #hover(point) {
    const busy = this.onPlace !== null || this.leaflet.pm?.globalDrawModeEnabled();
    const found = point && !busy ? this.vehicles.vehicleAt(point, false) : null;
    this.leaflet.getContainer().classList.toggle("pointing", Boolean(found));
    if ((found?.id ?? null) === this.vehicles.hovered) return;
    this.vehicles.hovered = found?.id ?? null;
    this.vehicles.refresh();
  }
}

/** Moves lines, areas and markers by whole turns of the world, to where it is nearest to a longitude. @param {L.Layer} layer @param {number} middle */
function turnTo(layer, middle) {
  if (layer instanceof L.LayerGroup) {
    layer.eachLayer((part) => turnTo(part, middle));
  } else if (layer instanceof L.Marker) {
    const { lat, lng } = layer.getLatLng();
    if (near(lng, middle) !== lng) layer.setLatLng([lat, near(lng, middle)]);
  } else if (layer instanceof L.Polyline && layer.getBounds().isValid()) {
    const { lng } = layer.getBounds().getCenter();
    const by = near(lng, middle) - lng;
    /** @param {any} places @returns {any} */
    const moved = (places) => (Array.isArray(places) ? places.map(moved) : L.latLng(places.lat, places.lng + by));
    if (by) layer.setLatLngs(moved(layer.getLatLngs()));
  }
}
