import { h } from "../../shared/dom.js";
import { beyondAntimeridian, nameOf } from "../state/geofences.js";

/** @typedef {import("../../shared/messages.js").Geofence} Geofence */

/** The geofences on the map. */
export class GeofenceLayer {
  /** The geofence in the editor, which draws it itself. @type {string | null} */
  hidden = null;

  #layers = L.layerGroup();
  /** @type {Map<string, {geofence: Geofence, layer: L.GeoJSON}>} */
  #shown = new Map();

  /** @param {import("./map.js").FleetMap} map */
  constructor(map) {
    this.#layers.addTo(map.leaflet);
    map.keepNear(this.#layers);
  }

  /** @param {import("../state/geofences.js").Geofences} geofences */
  show({ byId }) {
    for (const [id, { geofence, layer }] of this.#shown) {
      if (byId.get(id) === geofence && id !== this.hidden) continue;
      layer.remove();
      this.#layers.removeLayer(layer);
      this.#shown.delete(id);
    }
    for (const geofence of byId.values()) {
      if (!this.#shown.has(geofence.id) && geofence.id !== this.hidden) this.#draw(geofence);
    }
  }

  /** @param {Geofence} geofence */
  #draw(geofence) {
    const layer = layerOf(beyondAntimeridian(geofence));
    // Names are text: Leaflet would read a string as HTML.
    layer.bindTooltip(h("span", {}, nameOf(geofence)), { permanent: true, direction: "center", className: "fence-name" });
    this.#layers.addLayer(layer);
    this.#shown.set(geofence.id, { geofence, layer });
  }
}

/** @param {Geofence} geofence */
export function layerOf(geofence) {
  return L.geoJSON(/** @type {any} */ (geofence), { style: { className: "fence" }, interactive: false });
}

/** @param {Geofence} geofence */
export function boundsOf(geofence) {
  return layerOf(beyondAntimeridian(geofence)).getBounds();
}
