import { h } from "../../shared/dom.js";
import { isolated } from "../../shared/format.js";
import { layerOf } from "../map/geofence_layer.js";
import { reasonOf } from "../state/api.js";
import { nameOf, newId, propertiesOf, toKilometresPerHour } from "../state/geofences.js";

/** @typedef {import("../../shared/messages.js").Geofence} Geofence */

/**
 * @typedef {object} Parts
 * @property {import("../state/api.js").Api} api
 * @property {import("../state/live.js").Live} live
 * @property {import("../map/map.js").FleetMap} map
 * @property {import("./card.js").Card} card
 * @property {import("../panels/notices.js").Notices} notices
 * @property {(id: string | null) => void} onHide the editor draws this geofence, so the map must not; null: the map draws all
 */

/** Draws a geofence, or changes one: its shape with the plugin on the map, the rest in the card. */
export class GeofenceEditor {
  #parts;
  #map;
  /** The shape that is drawn or edited. @type {L.Polygon | null} */
  #layer = null;
  /** @type {Geofence | null} */
  #before = null;
  #drawing = false;

  /** @param {Parts} parts */
  constructor(parts) {
    this.#parts = parts;
    this.#map = parts.map.leaflet;
    this.#map.pm.setGlobalOptions({ allowSelfIntersection: false, snappable: true });
    this.#map.pm.setPathOptions({ className: "fence editing" });
    this.#map.on("pm:create", ({ layer }) => this.#drawn(/** @type {L.Polygon} */ (layer)));
  }

  get active() {
    return this.#drawing || this.#layer !== null;
  }

  draw() {
    this.#parts.card.close();
    this.stop();
    this.#drawing = true;
    this.#map.pm.enableDraw("Polygon", { tooltips: false, pathOptions: { className: "fence editing" }, templineStyle: { className: "fence-line" }, hintlineStyle: { className: "fence-line hint" } });
    this.#parts.notices.hint("Click the corners, and the first one again to finish · Esc to stop");
  }

  /** @param {Geofence} geofence */
  edit(geofence) {
    const { card, map, onHide } = this.#parts;
    card.close();
    this.stop();
    const [layer] = layerOf(geofence).getLayers();
    this.#before = geofence;
    this.#layer = /** @type {L.Polygon} */ (layer);
    this.#layer.setStyle({ className: "fence editing" });
    onHide(geofence.id);
    this.#layer.addTo(this.#map);
    this.#layer.pm.enable({ allowSelfIntersection: false });
    this.#ask(nameOf(geofence));
    map.fit(this.#layer.getBounds());
  }

  /** Stops the editor and discards its changes. */
  stop() {
    if (this.#drawing) this.#map.pm.disableDraw();
    this.#drawing = false;
    this.#layer?.pm.disable();
    this.#layer?.remove();
    this.#layer = this.#before = null;
    this.#parts.notices.hint("");
    this.#parts.onHide(null);
  }

  /** @param {L.Polygon} layer */
  #drawn(layer) {
    this.#drawing = false;
    this.#layer = layer;
    layer.pm.enable({ allowSelfIntersection: false });
    this.#parts.notices.hint("");
    this.#ask("New geofence");
  }

  /** @param {string} title */
  #ask(title) {
    const { card } = this.#parts;
    const before = this.#before?.properties ?? {};
    const problem = h("p", { class: "problem", role: "alert" });
    const name = h("input", { name: "name", maxlength: 200, value: before.name ?? "", autocomplete: "off" });
    const speed = h("input", { name: "speed", type: "number", min: 1, max: 300, step: "any", inputmode: "decimal", value: toKilometresPerHour(before.speed_limit) });
    const dwell = h("input", { name: "dwell", type: "number", min: 1, max: 10_000, step: "any", inputmode: "decimal", value: before.dwell_after === undefined ? "" : before.dwell_after / 60 });
    const save = (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#save(propertiesOf({ name: name.value, kilometresPerHour: speed.value, minutes: dwell.value }, before), problem);
    };
    const form = h(
      "form",
      { class: "fence-form", onsubmit: save },
      h("label", { class: "field" }, "Name", name),
      h("label", { class: "field" }, "Speed limit, km/h", speed),
      h("label", { class: "field" }, "Event when a vehicle stays longer than, minutes", dwell),
      h("p", { class: "aside" }, "Drag the corners to change the shape; drag a small one to add a corner, right-click one to remove it."),
      problem,
      h("p", { class: "line-of" }, h("button", { type: "submit", class: "main" }, "Save"), h("button", { type: "button", onclick: () => card.close() }, "Cancel")),
      this.#before && this.#removal(this.#before, problem),
    );
    card.show({ title, body: form, onClose: () => this.stop() }, { focus: true });
    name.focus({ preventScroll: true });
  }

  /** Asks for a second click before it removes the geofence. @param {Geofence} geofence @param {HTMLElement} problem */
  #removal(geofence, problem) {
    const { api, card, live } = this.#parts;
    const sure = h("p", { class: "line-of sure", hidden: true, role: "alert" }, `Delete ${isolated(nameOf(geofence))} for good?`);
    const remove = async () => {
      try {
        await api.removeGeofence(geofence.id);
        live.geofences.remove(geofence.id);
        card.close();
      } catch (error) {
        problem.textContent = reasonOf(error);
      }
    };
    const yes = h("button", { type: "button", class: "danger remove-sure", onclick: remove }, "Delete");
    const no = h("button", { type: "button", onclick: () => ((sure.hidden = true), ask.focus()) }, "Keep");
    const ask = h("button", { type: "button", class: "danger remove", onclick: () => ((sure.hidden = false), yes.focus()) }, "Delete geofence");
    sure.append(yes, no);
    return h("div", { class: "removal" }, ask, sure);
  }

  /** A shape that the hub refuses stays on the map, so that it can be corrected. @param {Geofence["properties"]} properties @param {HTMLElement} problem */
  async #save(properties, problem) {
    if (!this.#layer) return;
    const { api, card, live, notices } = this.#parts;
    const { geometry } = /** @type {any} */ (this.#layer.toGeoJSON());
    const id = this.#before?.id ?? newId();
    try {
      problem.textContent = "";
      live.geofences.put(await api.putGeofence({ type: "Feature", id, geometry, properties }));
      card.close();
      notices.tell("Geofence saved");
    } catch (error) {
      problem.textContent = reasonOf(error);
    }
  }
}
