import { byId, h } from "../../shared/dom.js";
import { reasonOf } from "../state/api.js";
import { toKilometresPerHour, toMetresPerSecond } from "../state/geofences.js";

/** @typedef {import("../state/api.js").FleetSettings} FleetSettings */
/** @typedef {Exclude<keyof FleetSettings, "fleet_id" | "name">} Threshold */

/** The form's fields: how a threshold is shown, and how its value is read back. @type {{key: Threshold, label: string, show: (value: number | undefined) => string, read: (value: number) => number}[]} */
const FIELDS = [
  { key: "speed_limit", label: "Speed limit, km/h (empty: none)", show: toKilometresPerHour, read: toMetresPerSecond },
  { key: "idle_after", label: "Stands still for longer than, minutes", show: minutes, read: (value) => Math.round(value * 60) },
  { key: "dwell_after", label: "Stays in a geofence longer than, minutes", show: minutes, read: (value) => Math.round(value * 60) },
  { key: "off_route_distance", label: "Farther from its route than, metres", show: (value) => String(value ?? ""), read: (value) => value },
  { key: "signal_lost_after", label: "Sends nothing for longer than, seconds", show: (value) => String(value ?? ""), read: (value) => value },
];

/** @param {number | undefined} seconds */
function minutes(seconds) {
  return seconds === undefined ? "" : String(Math.round(seconds / 0.6) / 100);
}

/** The dialog for the fleet's name and the thresholds of its events. */
export class Thresholds {
  #dialog = /** @type {HTMLDialogElement} */ (byId("thresholds"));
  #api;
  #onSaved;

  /** @param {import("../state/api.js").Api} api @param {(settings: FleetSettings) => void} onSaved */
  constructor(api, onSaved) {
    this.#api = api;
    this.#onSaved = onSaved;
    byId("thresholds-open").addEventListener("click", () => this.open());
  }

  async open() {
    this.#dialog.replaceChildren(h("h2", { id: "thresholds-title" }, "Fleet settings"), h("p", { role: "status" }, "Loading…"));
    this.#dialog.showModal();
    try {
      this.#fill(await this.#api.fleet());
    } catch (error) {
      this.#dialog.replaceChildren(h("h2", { id: "thresholds-title" }, "Fleet settings"), h("p", { class: "problem", role: "alert" }, reasonOf(error)), this.#closing("Close"));
    }
  }

  /** @param {FleetSettings} settings */
  #fill(settings) {
    const problem = h("p", { class: "problem", role: "alert" });
    const name = h("input", { name: "name", maxlength: 200, value: settings.name, autocomplete: "off" });
    const inputs = FIELDS.map(({ key, show }) => h("input", { name: key, type: "number", min: 0, step: "any", inputmode: "decimal", value: show(settings[key]) }));
    const save = async (/** @type {Event} */ event) => {
      event.preventDefault();
      const given = FIELDS.map(({ key, read }, index) => [key, inputs[index].value && read(Number(inputs[index].value))]).filter(([, value]) => value !== "");
      try {
        problem.textContent = "";
        this.#onSaved(await this.#api.putFleet({ name: name.value.trim(), ...Object.fromEntries(given) }));
        this.#dialog.close();
      } catch (error) {
        problem.textContent = reasonOf(error);
      }
    };
    const form = h(
      "form",
      { onsubmit: save },
      h("label", { class: "field" }, "Name", name),
      ...FIELDS.map(({ label }, index) => h("label", { class: "field" }, label, inputs[index])),
      h("p", { class: "aside" }, "A field left empty takes the usual value. A geofence may have limits of its own."),
      problem,
      h("p", { class: "line-of" }, h("button", { type: "submit", class: "main" }, "Save"), this.#closing("Cancel")),
    );
    this.#dialog.replaceChildren(h("h2", { id: "thresholds-title" }, "Fleet settings"), form);
    name.focus();
  }

  /** @param {string} words */
  #closing(words) {
    return h("button", { type: "button", onclick: () => this.#dialog.close() }, words);
  }
}
