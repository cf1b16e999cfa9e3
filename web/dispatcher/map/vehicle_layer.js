import { near } from "../../shared/geo.js";
import { placeAt } from "../state/vehicles.js";
import { clusterRadius, Painter } from "./painter.js";

/** @typedef {import("../state/vehicles.js").Vehicle} Vehicle */
/** @typedef {import("../state/vehicles.js").Vehicles} Vehicles */

/** The largest distance in pixels between a click and its vehicle. A finger is wider than a pointer. */
const POINTER_REACH = 16;
const FINGER_REACH = 26;
/** Pixels beyond the edge within which a vehicle may still be partly visible. */
const BEYOND = 24;

/** All vehicles on one canvas. It is drawn at most once a frame, and only if something moves. */
export class VehicleLayer extends L.Layer {
  /** @type {string | null} */
  selected = null;
  /** @type {string | null} */
  hovered = null;
  /** Whether a vehicle is shown at all. @type {(vehicle: Vehicle) => boolean} */
  filter = () => true;
  /** Draws vehicles paler during a replay. */
  faded = false;
  /** Shows vehicles at their fixes without animation. */
  reduced = false;

  #vehicles;
  #canvas = document.createElement("canvas");
  #context = /** @type {CanvasRenderingContext2D} */ (this.#canvas.getContext("2d"));
  #request = 0;
  #zooming = false;
  #ratio = 1;
  /** @type {Painter | null} */
  #painter = null;
  /** The position of the map when the canvas was drawn. */
  #drawn = { zoom: 0, corner: L.point(0, 0) };

  /** @param {Vehicles} vehicles */
  constructor(vehicles) {
    super();
    // The constructor of Leaflet's layers takes no options.
    L.Util.setOptions(this, { pane: "vehicles" });
    this.#vehicles = vehicles;
    this.#canvas.className = "leaflet-zoom-animated vehicle-canvas";
    this.#canvas.setAttribute("aria-hidden", "true");
  }

  /** @override @param {L.Map} map */
  onAdd(map) {
    this.getPane()?.append(this.#canvas);
    this.#measure(map);
    this.refresh();
    return this;
  }

  /** @override */
  onRemove() {
    cancelAnimationFrame(this.#request);
    this.#request = 0;
    this.#canvas.remove();
    return this;
  }

  /** @override */
  getEvents() {
    return {
      move: () => this.refresh(),
      moveend: () => this.refresh(),
      viewreset: () => this.refresh(),
      resize: () => this.#measure(this._map),
      zoomstart: () => (this.#zooming = true),
      zoomend: () => ((this.#zooming = false), this.refresh()),
      zoomanim: (/** @type {L.LeafletEvent} */ event) => this.#follow(/** @type {L.ZoomAnimEvent} */ (event)),
    };
  }

  /** Something changed: draw in the next frame. */
  refresh() {
    this.#request ||= requestAnimationFrame((now) => {
      this.#request = 0;
      if (this._map && this.#draw(now)) this.refresh();
    });
  }

  /** Draws the glyphs again after the theme or the screen has changed. */
  repaint() {
    this.#painter = null;
    this.refresh();
  }

  /**
   * The vehicle at a point of the map's container, or null.
   * @param {L.Point} point
   * @param {boolean} finger
   * @returns {Vehicle | null}
   */
  vehicleAt(point, finger) {
    const now = performance.now();
    const project = this.#projection();
    let nearest = null;
    let least = finger ? FINGER_REACH : POINTER_REACH;
    for (const vehicle of this.#vehicles.byId.values()) {
      if (!this.filter(vehicle)) continue;
      const { x, y } = project(this.#placeOf(vehicle, now));
      const away = Math.hypot(x - point.x, y - point.y);
      if (away > least) continue;
      least = away;
      nearest = vehicle;
    }
    return nearest;
  }

  /** @param {L.Map} map */
  #measure(map) {
    const size = map.getSize();
    this.#ratio = Math.min(devicePixelRatio || 1, 2);
    this.#canvas.width = Math.round(size.x * this.#ratio);
    this.#canvas.height = Math.round(size.y * this.#ratio);
    this.#canvas.style.width = `${size.x}px`;
    this.#canvas.style.height = `${size.y}px`;
    this.repaint();
  }

  /** Converts world coordinates (0 to 1) to the container's pixels, in the copy of the world in the middle. */
  #projection() {
    const map = this._map;
    const scale = 256 * 2 ** map.getZoom();
    const corner = map.getPixelOrigin().add(map.containerPointToLayerPoint([0, 0]));
    const middle = (corner.x + map.getSize().x / 2) / scale;
    return (/** @type {{x: number, y: number}} */ { x, y }) => ({ x: (x + Math.round(middle - x)) * scale - corner.x, y: y * scale - corner.y });
  }

  /** @param {Vehicle} vehicle @param {number} now */
  #placeOf(vehicle, now) {
    return this.reduced ? vehicle : placeAt(vehicle, now);
  }

  /** @param {number} now returns whether another frame is needed without new data */
  #draw(now) {
    const map = this._map;
    // Leaflet scales the canvas during a zoom. Drawing now would put vehicles in the wrong place.
    if (this.#zooming) return false;
    const corner = map.containerPointToLayerPoint([0, 0]);
    L.DomUtil.setPosition(this.#canvas, corner);
    this.#drawn = { zoom: map.getZoom(), corner: map.getPixelOrigin().add(corner) };
    const context = this.#context;
    context.setTransform(this.#ratio, 0, 0, this.#ratio, 0, 0);
    context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    this.#painter ??= new Painter(context, map.getContainer(), this.#ratio);
    const { clusters } = this.#vehicles;
    if (!clusters) return this.#drawVehicles(this.#painter, now);
    const project = this.#clusterProjection();
    this.#painter.drawClusters(clusters.map(([latitude, longitude, count]) => ({ ...project(latitude, longitude), count })));
    return false;
  }

  /** @param {Painter} painter @param {number} now returns whether any vehicle is still moving */
  #drawVehicles(painter, now) {
    const project = this.#projection();
    const { x: width, y: height } = this._map.getSize();
    const snap = this.#ratio;
    let gliding = false;
    /** @type {import("./painter.js").Placed[]} */
    const placed = [];
    for (const vehicle of this.#vehicles.byId.values()) {
      if (!this.filter(vehicle)) continue;
      if (!this.reduced && now - vehicle.movedAt < vehicle.glide) gliding = true;
      const { x, y } = project(this.#placeOf(vehicle, now));
      if (x < -BEYOND || y < -BEYOND || x > width + BEYOND || y > height + BEYOND) continue;
      // An image at whole device pixels is copied. Between them it would be interpolated, which is slower.
      placed.push({ vehicle, x: Math.round(x * snap) / snap, y: Math.round(y * snap) / snap });
    }
    painter.drawVehicles(placed, { zoom: this._map.getZoom(), selected: this.selected, hovered: this.hovered, faded: this.faded });
    return gliding;
  }

  /** The cluster at a point of the map's container. @param {L.Point} point */
  clusterAt(point) {
    const project = this.#clusterProjection();
    return (
      this.#vehicles.clusters?.find(([latitude, longitude, count]) => {
        const { x, y } = project(latitude, longitude);
        return Math.hypot(x - point.x, y - point.y) <= clusterRadius(count) + 4;
      }) ?? null
    );
  }

  #clusterProjection() {
    const map = this._map;
    const middle = map.getCenter().lng;
    return (/** @type {number} */ latitude, /** @type {number} */ longitude) => map.latLngToContainerPoint([latitude, near(longitude, middle)]);
  }

  /** Leaflet animates a zoom by scaling the panes to their final size. @param {L.ZoomAnimEvent} event */
  #follow({ center, zoom }) {
    const map = this._map;
    const scale = map.getZoomScale(zoom, this.#drawn.zoom);
    const origin = map.project(center, zoom).subtract(map.getSize().divideBy(2)).subtract(L.DomUtil.getPosition(map.getPane("mapPane") ?? this.#canvas));
    L.DomUtil.setTransform(this.#canvas, this.#drawn.corner.multiplyBy(scale).subtract(origin.round()), scale);
  }
}
