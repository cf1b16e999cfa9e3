import { fact, h, write } from "../../shared/dom.js";
import { ago } from "../../shared/format.js";
import { clockText, distanceText, durationText, kilometresPerHour, VEHICLE_STATUS } from "../labels.js";
import { glyphIcon } from "../map/glyphs.js";
import { TripCard } from "./trip_card.js";

/** Milliseconds between two requests for the battery, and for a vehicle out of view. */
const ASK_EVERY = 10_000;

/** One vehicle in the card: its status, the age of that, and its trip. */
export class VehicleCard {
  element = h("div", { class: "vehicle-card" });

  #api;
  #live;
  #id;
  #status = h("p", { class: "vehicle-status" });
  #plate = h("span", { class: "plate", hidden: true });
  #speed = h("span");
  #age = h("span");
  #battery = h("span");
  #bearing = h("span");
  #clock = h("p", { class: "clock-wrong", hidden: true });
  #today = h("p", { class: "today", hidden: true });
  #tripPlace = h("div", { class: "trip-place" });
  /** @type {TripCard | null} */
  #trip = null;
  #tripId = "";
  /** @type {import("../../shared/messages.js").Trip | null} */
  #shown = null;
  #shape = "";
  #timer;
  /** @type {import("../state/api.js").VehicleView | null} */
  #view = null;
  #onName;
  #closed = false;

  /**
   * @param {import("../state/api.js").Api} api
   * @param {import("../state/live.js").Live} live
   * @param {string} id
   * @param {{onShow: () => void, onReplay: () => void, onName: (name: string) => void, onTrip: (trip: import("../../shared/messages.js").Trip | null) => void}} events
   */
  constructor(api, live, id, { onShow, onReplay, onName, onTrip }) {
    this.#api = api;
    this.#live = live;
    this.#id = id;
    this.#onName = onName;
    this.onTrip = onTrip;
    this.element.append(
      h("p", { class: "line-of top" }, this.#status, this.#plate),
      h("dl", { class: "facts" }, fact("Speed", this.#speed), fact("Last fix", this.#age), fact("Heading", this.#bearing), fact("Battery", this.#battery)),
      this.#clock,
      this.#today,
      h("p", { class: "line-of" }, h("button", { type: "button", class: "show", onclick: onShow }, "Show on map"), h("button", { type: "button", class: "replay-open", onclick: onReplay }, "Replay")),
      this.#tripPlace,
    );
    this.#timer = setInterval(() => this.#ask(), ASK_EVERY);
    /** Settles when the hub has answered. */
    this.asked = this.#ask();
    this.#askToday();
  }

  close() {
    this.#closed = true;
    clearInterval(this.#timer);
  }

  /** Its newest known position. */
  get place() {
    return this.#live.vehicles.byId.get(this.#id) ?? this.#view?.position ?? null;
  }

  update() {
    const seen = this.#live.vehicles.byId.get(this.#id);
    const asked = this.#view;
    const status = seen?.status ?? asked?.status ?? null;
    const position = seen ?? asked?.position ?? null;
    const fixTime = seen?.fixTime ?? asked?.position?.fix_time;
    const battery = seen?.battery ?? asked?.position?.battery;
    this.#onName(seen?.name ?? (asked?.name || this.#id));
    const plate = seen?.plate ?? asked?.plate ?? "";
    write(this.#plate, plate);
    this.#plate.hidden = plate === "";
    this.#showStatus(status, seen?.kind ?? asked?.kind ?? "");
    write(this.#speed, typeof position?.speed === "number" ? kilometresPerHour(position.speed) : "–");
    write(this.#age, fixTime === undefined ? "–" : ago(this.#live.now() - fixTime));
    write(this.#bearing, typeof position?.bearing === "number" ? compass(position.bearing) : "–");
    write(this.#battery, typeof battery === "number" ? `${Math.round(battery * 100)} %` : "–");
    const clock = clockText((seen ? seen.clockSkew : asked?.clock_skew) ?? 0);
    write(this.#clock, clock && `${clock}. What it reports counts for the time that its clock shows.`);
    this.#clock.hidden = !clock;
    this.#followTrip((seen ? seen.tripId : asked?.trip_id) ?? "");
  }

  /** @param {import("../../shared/messages.js").Done} done */
  done(done) {
    this.#trip?.done(done);
  }

  /** @param {import("../../shared/messages.js").VehicleStatus | null} status @param {string} kind */
  #showStatus(status, kind) {
    const shape = `${status} ${kind}`;
    if (shape === this.#shape) return;
    this.#shape = shape;
    const words = status ? VEHICLE_STATUS[status] : "Not heard of lately";
    this.#status.replaceChildren(...(status ? [glyphIcon(status)] : []), kind ? `${words} · ${kind}` : words);
  }

  /** Shows the vehicle's trip. A trip that has ended stays until the vehicle has another. @param {string} tripId */
  #followTrip(tripId) {
    const known = this.#live.trips.get(tripId || this.#tripId);
    if (tripId && tripId !== this.#tripId) {
      this.#tripId = tripId;
      this.#trip = null;
      this.#tripPlace.replaceChildren();
      if (!known) this.#askTrip(tripId);
    }
    if (!known || known === this.#shown) return;
    this.#shown = known;
    if (this.#trip) this.#trip.show(known);
    else {
      this.#trip = new TripCard(this.#api, this.#live, known);
      this.#tripPlace.replaceChildren(h("h3", {}, "Trip"), this.#trip.element);
    }
    this.onTrip(known);
  }

  /** @param {string} tripId */
  async #askTrip(tripId) {
    try {
      this.#live.trips.put(await this.#api.trip(tripId));
      if (!this.#closed) this.update();
    } catch {
      // The hub sends the trip when it next changes.
    }
  }

  /** The hub's days begin at midnight UTC. */
  async #askToday() {
    const today = new Date(this.#live.now()).toISOString().slice(0, 10);
    try {
      const [day] = await this.#api.days(this.#id, today, today);
      if (!day) return;
      const stops = day.stops === 1 ? "1 stop" : `${day.stops} stops`;
      write(this.#today, `Since midnight UTC: ${distanceText(day.distance)}, ${durationText(day.driving_time)} driving, ${stops}`);
      this.#today.hidden = false;
    } catch {
      // The sum is left out. An error message would disturb more.
    }
  }

  async #ask() {
    try {
      this.#view = await this.#api.vehicle(this.#id);
      this.#live.vehicles.learn(this.#view);
    } catch {
      // The data from the socket is enough for now.
    }
    if (!this.#closed) this.update();
  }
}

const WINDS = ["north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west"];

/** @param {number} bearing */
function compass(bearing) {
  return WINDS[Math.round(bearing / 45) % WINDS.length];
}
