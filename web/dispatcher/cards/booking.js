import { h } from "../../shared/dom.js";
import { reasonOf } from "../state/api.js";
import { Nearest } from "./nearest.js";
import { placeText } from "../labels.js";

/** @typedef {{latitude: number, longitude: number}} Point */

/**
 * @typedef {object} Desk
 * @property {import("../state/api.js").Api} api
 * @property {import("../map/map.js").FleetMap} map
 * @property {import("../map/trip_layer.js").Marks} marks
 * @property {import("./card.js").Card} card
 * @property {import("../panels/notices.js").Notices} notices
 * @property {(trip: import("../messages.js").Trip) => void} onCreated
 */

/** A new trip: a click for the pickup, one for the drop-off, then who drives it. */
export class Booking {
  #desk;
  /** @type {Point | null} */
  #pickup = null;
  active = false;

  /** @param {Desk} desk */
  constructor(desk) {
    this.#desk = desk;
  }

  begin() {
    const { card, map, marks, notices } = this.#desk;
    card.close();
    this.active = true;
    this.#pickup = null;
    marks.clear();
    notices.hint("Click the map where the trip begins · Esc to stop");
    map.place((place) => this.#placed(place));
  }

  /** Nothing more is placed, and nothing was made. */
  stop() {
    if (!this.active) return;
    const { map, marks, notices } = this.#desk;
    this.active = false;
    map.place(null);
    marks.clear();
    notices.hint("");
  }

  /** @param {Point} place */
  #placed(place) {
    const { map, marks, notices } = this.#desk;
    if (!this.#pickup) {
      this.#pickup = place;
      marks.showPlaces(place, [], null);
      notices.hint("Now click where it ends · Esc to stop");
      return;
    }
    map.place(null);
    notices.hint("");
    marks.clear();
    marks.showPlaces(this.#pickup, [], place);
    this.#ask(this.#pickup, place);
  }

  /** @param {Point} pickup @param {Point} dropoff */
  #ask(pickup, dropoff) {
    const { api, card } = this.#desk;
    const problem = h("p", { class: "problem", role: "alert" });
    const from = h("input", { name: "pickup", maxlength: 200, placeholder: placeText(pickup), autocomplete: "off" });
    const to = h("input", { name: "dropoff", maxlength: 200, placeholder: placeText(dropoff), autocomplete: "off" });
    const create = async (/** @type {string | null} */ vehicleId) => {
      const named = (/** @type {Point} */ place, /** @type {string} */ name) => ({ ...place, ...(name.trim() && { name: name.trim() }) });
      try {
        problem.textContent = "";
        const trip = await api.createTrip({ pickup: named(pickup, from.value), dropoff: named(dropoff, to.value), ...(vehicleId && { vehicle_id: vehicleId }) });
        this.stop();
        this.#desk.onCreated(trip);
      } catch (error) {
        problem.textContent = reasonOf(error);
      }
    };
    const body = h(
      "div",
      { class: "booking" },
      h("label", { class: "field" }, "Pickup", from),
      h("label", { class: "field" }, "Drop-off", to),
      new Nearest(api, pickup, create).element,
      problem,
      h("p", { class: "line-of" }, h("button", { type: "button", class: "without", onclick: () => create(null) }, "Create without a vehicle")),
    );
    card.show({ title: "New trip", body, onClose: () => this.stop() }, { focus: true });
  }
}
