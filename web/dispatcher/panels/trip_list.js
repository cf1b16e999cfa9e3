import { byId, h } from "../../shared/dom.js";
import { placeText, TRIP_STATUS } from "../labels.js";

/** @typedef {import("../../shared/messages.js").Trip} Trip */

/** The list of open trips. Trips without a vehicle are on top. */
export class TripList {
  #list = byId("trip-list");
  #onOpen;

  /** @param {(trip: Trip) => void} onOpen */
  constructor(onOpen) {
    this.#onOpen = onOpen;
  }

  /** @param {Trip[]} trips */
  show(trips) {
    const focused = document.activeElement?.closest("#trip-list [data-trip]")?.getAttribute("data-trip");
    this.#list.replaceChildren(...trips.map((trip) => this.#entry(trip)));
    if (!trips.length) this.#list.append(h("li", { class: "none" }, "No trip is open."));
    if (focused) /** @type {HTMLElement | null} */ (this.#list.querySelector(`[data-trip="${CSS.escape(focused)}"] button`))?.focus();
  }

  /** @param {Trip} trip */
  #entry(trip) {
    const who = trip.vehicle ? trip.vehicle.name || trip.vehicle.vehicle_id : "No vehicle yet";
    return h(
      "li",
      { "data-trip": trip.trip_id, class: trip.vehicle ? null : "waiting" },
      h(
        "button",
        { type: "button", class: "row-open", onclick: () => this.#onOpen(trip) },
        h("span", { class: "row-name" }, who),
        h("span", { class: "trip-status", "data-status": trip.status }, TRIP_STATUS[trip.status] ?? trip.status),
        h("span", { class: "row-detail" }, `${placeText(trip.pickup)} → ${placeText(trip.dropoff)}`),
      ),
    );
  }
}
