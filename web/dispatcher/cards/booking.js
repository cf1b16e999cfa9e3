import { h } from "../../shared/dom.js";
import { placeText } from "../labels.js";
import { reasonOf } from "../state/api.js";
import { Nearest } from "./nearest.js";

/** @typedef {{latitude: number, longitude: number}} Point */

/**
 * @typedef {object} Parts
 * @property {import("../state/api.js").Api} api
 * @property {import("../map/map.js").FleetMap} map
 * @property {import("../map/trip_layer.js").TripLayer} tripLayer
 * @property {import("./card.js").Card} card
 * @property {import("../panels/notices.js").Notices} notices
 * @property {(trip: import("../../shared/messages.js").Trip) => void} onCreated
 */

/** A new trip: a click for the pickup, one for the drop-off, then who drives it. */
export class Booking {
  #parts;
  /** @type {Point | null} */
  #pickup = null;
  active = false;

  /** @param {Parts} parts */
  constructor(parts) {
    this.#parts = parts;
  }

  begin() {
    const { card, map, tripLayer, notices } = this.#parts;
    card.close();
    this.active = true;
    this.#pickup = null;
    tripLayer.clear();
    notices.hint("Click the map where the trip begins · Esc to stop");
    map.place((place) => this.#placed(place));
  }

  /** Stops the booking without creating a trip. */
  stop() {
    if (!this.active) return;
    const { map, tripLayer, notices } = this.#parts;
    this.active = false;
    map.place(null);
    tripLayer.clear();
    notices.hint("");
  }

  /** @param {Point} place */
  #placed(place) {
    const { map, tripLayer, notices } = this.#parts;
    if (!this.#pickup) {
      this.#pickup = place;
      tripLayer.showPlaces(place, [], null);
      notices.hint("Now click where it ends · Esc to stop");
      return;
    }
    map.place(null);
    notices.hint("");
    tripLayer.clear();
    tripLayer.showPlaces(this.#pickup, [], place);
    this.#ask(this.#pickup, place);
  }

  /** @param {Point} pickup @param {Point} dropoff */
  #ask(pickup, dropoff) {
    const { api, card } = this.#parts;
    const problem = h("p", { class: "problem", role: "alert" });
    const from = h("input", { name: "pickup", maxlength: 200, placeholder: placeText(pickup), autocomplete: "off" });
    const to = h("input", { name: "dropoff", maxlength: 200, placeholder: placeText(dropoff), autocomplete: "off" });
    const create = async (/** @type {string | null} */ vehicleId) => {
      const named = (/** @type {Point} */ place, /** @type {string} */ name) => ({ ...place, ...(name.trim() && { name: name.trim() }) });
      try {
        problem.textContent = "";
        const trip = await api.createTrip({ pickup: named(pickup, from.value), dropoff: named(dropoff, to.value), ...(vehicleId && { vehicle_id: vehicleId }) });
        this.stop();
        this.#parts.onCreated(trip);
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
