import { h } from "../../shared/dom.js";
import { isolated } from "../../shared/format.js";
import { placeText, TRIP_STATUS } from "../labels.js";
import { reasonOf } from "../state/api.js";
import { isOver } from "../state/trips.js";
import { Nearest } from "./nearest.js";
import { Shares } from "./shares.js";

/** @typedef {import("../../shared/messages.js").Trip} Trip */

/** One trip in a card: its status, places, messages and links, and the button that cancels it. */
export class TripCard {
  element = h("section", { class: "trip-box" });

  #api;
  #live;
  #trip;
  #status = h("p", { class: "trip-status" });
  #places = h("ol", { class: "trip-places" });
  #assign = h("div", {});
  #problem = h("p", { class: "problem", role: "alert" });
  #text = h("input", { class: "text", maxlength: 1_000, placeholder: "Driver and passengers", "aria-label": "Message to driver and passengers", autocomplete: "off" });
  #sent = h("p", { class: "sent", role: "status" });
  #form = h("form", { class: "message-form", onsubmit: (/** @type {Event} */ event) => this.#send(event) }, this.#text, h("button", { type: "submit" }, "Send"));
  #cancel = h("button", { type: "button", class: "danger cancel-trip", onclick: () => this.#askCancel() }, "Cancel trip");
  #shares;
  #clientId = "";
  #vehicle = h("button", { type: "button", class: "show-vehicle", hidden: true, onclick: () => this.#trip.vehicle && this.#onVehicle?.(this.#trip.vehicle.vehicle_id) });
  #onVehicle;

  /**
   * @param {import("../state/api.js").Api} api
   * @param {import("../state/live.js").Live} live
   * @param {Trip} trip
   * @param {(vehicleId: string) => void} [onVehicle] shows the vehicle, if it isn't shown already
   */
  constructor(api, live, trip, onVehicle) {
    this.#onVehicle = onVehicle;
    this.#api = api;
    this.#live = live;
    this.#trip = trip;
    this.#shares = new Shares(api, trip.trip_id, () => live.now());
    this.element.append(this.#status, this.#places, h("p", { class: "line-of" }, this.#vehicle), this.#assign, this.#problem, this.#form, this.#sent, this.#shares.element, h("p", { class: "line-of" }, this.#cancel));
    this.show(trip);
  }

  get tripId() {
    return this.#trip.trip_id;
  }

  /** @param {Trip} trip */
  show(trip) {
    const first = !this.#places.childElementCount;
    const before = this.#trip;
    this.#trip = trip;
    const over = isOver(trip);
    this.#status.textContent = TRIP_STATUS[trip.status] ?? trip.status;
    this.#status.dataset.status = trip.status;
    const places = /** @type {const} */ ([["Pickup", trip.pickup], ...(trip.stops ?? []).map((stop) => ["Stop", stop]), ["Drop-off", trip.dropoff]]);
    this.#places.replaceChildren(...places.map(([role, place]) => h("li", {}, h("span", { class: "role" }, String(role)), " ", placeText(/** @type {any} */ (place)))));
    this.#form.hidden = this.#shares.element.hidden = this.#cancel.hidden = over;
    this.#vehicle.hidden = !trip.vehicle || !this.#onVehicle;
    this.#vehicle.textContent = trip.vehicle ? `Show ${isolated(trip.vehicle.name || trip.vehicle.vehicle_id)}` : "";
    this.#text.disabled = !trip.vehicle;
    if (first || Boolean(before.vehicle) !== Boolean(trip.vehicle) || over) this.#offer(trip, over);
  }

  /** Lists the nearest vehicles for a trip that has none. @param {Trip} trip @param {boolean} over */
  #offer(trip, over) {
    if (trip.vehicle || over) this.#assign.replaceChildren();
    else this.#assign.replaceChildren(new Nearest(this.#api, trip.pickup, (vehicleId) => this.#change({ vehicle_id: vehicleId })).element);
  }

  /** Asks for a second click within a few seconds before it cancels the trip. */
  #askCancel() {
    if (this.#cancel.dataset.sure) {
      this.#change({ status: "canceled" });
      return;
    }
    this.#cancel.dataset.sure = "true";
    this.#cancel.textContent = "Really cancel it?";
    setTimeout(() => {
      delete this.#cancel.dataset.sure;
      this.#cancel.textContent = "Cancel trip";
    }, 4_000);
  }

  /** @param {{status?: string, vehicle_id?: string}} change */
  async #change(change) {
    try {
      this.#problem.textContent = "";
      this.show(this.#live.trips.put(await this.#api.changeTrip(this.#trip.trip_id, { ...change, version: this.#trip.version })));
    } catch (error) {
      this.#problem.textContent = reasonOf(error);
    }
  }

  /** @param {Event} event */
  #send(event) {
    event.preventDefault();
    const text = this.#text.value.trim();
    if (!text) return;
    this.#clientId = `m${Date.now()}`;
    const sent = this.#live.write(this.#trip.trip_id, text, this.#clientId);
    this.#sent.textContent = sent ? "Sending…" : "Not sent: there is no connection. Try again.";
  }

  /** The hub's answer to a message. @param {import("../../shared/messages.js").Done} done */
  done({ client_id: clientId, code, detail }) {
    if (clientId !== this.#clientId) return;
    this.#sent.textContent = code ? `Not sent: ${detail ?? code}` : "Sent";
    if (!code) this.#text.value = "";
  }
}
