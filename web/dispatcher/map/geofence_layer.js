import { h } from "../../shared/dom.js";
import { beyondAntimeridian, nameOf, toKilometresPerHour } from "../state/geofences.js";
import { durationText } from "../labels.js";

/** @typedef {import("../../shared/messages.js").Geofence} Geofence */

/** The geofences on the map, and their list at the side. */
export class GeofenceLayer {
  #layers = L.layerGroup();
  /** @type {Map<string, {geofence: Geofence, layer: L.GeoJSON}>} */
  #shown = new Map();
  #list = /** @type {HTMLElement} */ (document.getElementById("fence-list"));
  #events;
  /** The one that is being edited is not drawn twice. @type {string | null} */
  #hidden = null;

  /**
   * @param {import("./map.js").FleetMap} map
   * @param {{onZoom: (bounds: L.LatLngBounds) => void, onEdit: (geofence: Geofence) => void}} events
   */
  constructor(map, events) {
    this.#events = events;
    this.#layers.addTo(map.leaflet);
    map.keepNear(this.#layers);
  }

  /** @param {import("../state/geofences.js").Geofences} geofences */
  show(geofences) {
    for (const [id, { geofence, layer }] of this.#shown) {
      if (geofences.byId.get(id) === geofence && id !== this.#hidden) continue;
      layer.remove();
      this.#layers.removeLayer(layer);
      this.#shown.delete(id);
    }
    for (const geofence of geofences.byId.values()) {
      if (!this.#shown.has(geofence.id) && geofence.id !== this.#hidden) this.#draw(geofence);
    }
    const sorted = geofences.sorted;
    this.#list.replaceChildren(...sorted.map((geofence) => this.#entry(geofence)));
    if (!sorted.length) this.#list.append(h("li", { class: "none" }, "None yet. Draw one, and the events tell who enters and leaves it."));
  }

  /** @param {string | null} id @param {import("../state/geofences.js").Geofences} geofences */
  hide(id, geofences) {
    this.#hidden = id;
    this.show(geofences);
  }

  get ids() {
    return [...this.#shown.keys()];
  }

  /** @param {Geofence} geofence */
  #draw(geofence) {
    const layer = layerOf(beyondAntimeridian(geofence));
    // Names are text: Leaflet would read a string as HTML.
    layer.bindTooltip(h("span", {}, nameOf(geofence)), { permanent: true, direction: "center", className: "fence-name" });
    this.#layers.addLayer(layer);
    this.#shown.set(geofence.id, { geofence, layer });
  }

  /** @param {Geofence} geofence */
  #entry(geofence) {
    const { speed_limit: limit, dwell_after: dwell } = geofence.properties ?? {};
    const rules = [limit === undefined ? "" : `${toKilometresPerHour(limit)} km/h`, dwell === undefined ? "" : `dwell ${durationText(dwell)}`];
    return h(
      "li",
      { "data-fence": geofence.id },
      h("span", { class: "row-name" }, nameOf(geofence)),
      h("span", { class: "row-detail" }, rules.filter(Boolean).join(" · ") || "No rules of its own"),
      h(
        "span",
        { class: "row-buttons" },
        h("button", { type: "button", class: "zoom-to", "aria-label": `Show ${nameOf(geofence)} on the map`, onclick: () => this.#events.onZoom(layerOf(beyondAntimeridian(geofence)).getBounds()) }, "Show"),
        h("button", { type: "button", class: "edit", "aria-label": `Edit ${nameOf(geofence)}`, onclick: () => this.#events.onEdit(geofence) }, "Edit"),
      ),
    );
  }
}

/** @param {Geofence} geofence */
export function layerOf(geofence) {
  return L.geoJSON(/** @type {any} */ (geofence), { style: { className: "fence" }, interactive: false });
}
