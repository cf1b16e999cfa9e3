import { byId, h } from "../../shared/dom.js";
import { durationText } from "../labels.js";
import { nameOf, toKilometresPerHour } from "../state/geofences.js";

/** @typedef {import("../../shared/messages.js").Geofence} Geofence */

/** The geofences at the side, with their rules. */
export class GeofenceList {
  #list = byId("fence-list");
  #events;

  /** @param {{onShow: (geofence: Geofence) => void, onEdit: (geofence: Geofence) => void}} events */
  constructor(events) {
    this.#events = events;
  }

  /** @param {import("../state/geofences.js").Geofences} geofences */
  show({ sorted }) {
    this.#list.replaceChildren(...sorted.map((geofence) => this.#entry(geofence)));
    if (!sorted.length) this.#list.append(h("li", { class: "none" }, "None yet. Draw one, and events show which vehicles enter and leave it."));
  }

  /** @param {Geofence} geofence */
  #entry(geofence) {
    const { speed_limit: limit, dwell_after: dwell } = geofence.properties ?? {};
    const rules = [limit === undefined ? "" : `${toKilometresPerHour(limit)} km/h`, dwell === undefined ? "" : `dwell ${durationText(dwell)}`];
    const name = nameOf(geofence);
    return h(
      "li",
      { "data-fence": geofence.id },
      h("span", { class: "row-name" }, name),
      h("span", { class: "row-detail" }, rules.filter(Boolean).join(" · ") || "No rules of its own"),
      h(
        "span",
        { class: "row-buttons" },
        h("button", { type: "button", class: "zoom-to", "aria-label": `Show ${name} on the map`, onclick: () => this.#events.onShow(geofence) }, "Show"),
        h("button", { type: "button", class: "edit", "aria-label": `Edit ${name}`, onclick: () => this.#events.onEdit(geofence) }, "Edit"),
      ),
    );
  }
}
