import { byId, write } from "../shared/dom.js";
import { ago, isolated, timeOfDay } from "../shared/format.js";
import * as labels from "./labels.js";

/** @typedef {import("./feed.js").Feed} Feed */
/** @typedef {import("../shared/messages.js").Trip} Trip */

/** @param {HTMLElement} target @param {string} text */
function writeOrHide(target, text) {
  write(target, text);
  target.hidden = text === "";
}

/** The panel beside the map: the trip's status, its vehicle, and the age of the position. */
export class Panel {
  #root = byId("panel");
  #status = byId("status");
  #explanation = byId("explanation");
  #wait = byId("wait");
  #waitDetail = byId("wait-detail");
  #vehicle = byId("vehicle");
  #plate = byId("plate");
  #name = byId("vehicle-name");
  #kind = byId("vehicle-kind");
  #places = byId("places");
  #freshness = byId("freshness");
  #age = byId("age");

  /**
   * @param {Trip} trip
   */
  showTrip(trip) {
    this.#root.dataset.status = trip.status;
    this.#root.removeAttribute("aria-busy");
    write(this.#status, labels.status(trip));
    writeOrHide(this.#explanation, labels.explanation(trip));
    this.#showVehicle(trip);
    this.#showPlaces(trip);
    const plate = trip.vehicle?.plate;
    document.title = plate ? `${labels.status(trip)} · ${isolated(plate)}` : labels.status(trip);
  }

  /**
   * Shows the arrival time, if the hub sends one.
   * @param {Feed} feed
   * @param {number} now the hub's time
   */
  showProgress({ progress, trip }, now) {
    const eta = trip && isMoving(trip) ? progress?.eta : undefined;
    const left = trip && isMoving(trip) ? progress?.remaining_distance : undefined;
    const farAway = left === undefined ? "" : labels.length(left);
    if (eta === undefined) {
      writeOrHide(this.#wait, farAway);
      writeOrHide(this.#waitDetail, farAway && "to go");
      return;
    }
    writeOrHide(this.#wait, labels.wait(Math.max(eta - now, 0), progress?.eta_error));
    writeOrHide(this.#waitDetail, [`about ${timeOfDay(eta)}`, farAway].filter(Boolean).join(" · "));
  }

  /**
   * @param {number | null} age milliseconds since the last fix, null if there is none
   * @param {boolean} stale
   * @param {boolean} live whether the hub sends messages
   * @param {Trip} trip
   */
  showAge(age, stale, live, trip) {
    this.#freshness.hidden = age === null && !isUnderWay(trip);
    this.#freshness.classList.toggle("stale", stale);
    this.#freshness.classList.toggle("cut", !live || age === null);
    if (age === null) write(this.#age, "No position of the vehicle yet");
    else write(this.#age, stale ? `No fresh position · last seen ${ago(age)}` : `Updated ${ago(age)}`);
  }

  /**
   * Shows the final text.
   * @param {import("../shared/close_codes.js").Ending} ending
   * @param {Trip | null} trip
   */
  showEnding(ending, trip) {
    const { title, text } = labels.farewell(ending, trip);
    this.#root.dataset.ending = ending;
    this.#root.removeAttribute("aria-busy");
    write(this.#status, title);
    writeOrHide(this.#explanation, text);
    for (const part of [this.#wait, this.#waitDetail, this.#freshness]) part.hidden = true;
    if (ending !== "over") this.#vehicle.hidden = this.#places.hidden = true;
    document.title = title;
  }

  /** @param {Trip} trip */
  #showVehicle({ vehicle }) {
    this.#vehicle.hidden = !vehicle;
    if (!vehicle) return;
    writeOrHide(this.#plate, vehicle.plate ?? "");
    const { name = "", kind = "" } = vehicle;
    const capital = kind && kind[0].toUpperCase() + kind.slice(1);
    writeOrHide(this.#name, name || capital);
    writeOrHide(this.#kind, name.toLowerCase().includes(kind.toLowerCase()) ? "" : capital);
  }

  /** @param {Trip} trip */
  #showPlaces({ pickup, stops = [], dropoff }) {
    const places = [{ kind: "pickup", place: pickup, name: "Pickup" }];
    for (const place of stops) places.push({ kind: "stop", place, name: "Stop" });
    places.push({ kind: "dropoff", place: dropoff, name: "Drop-off" });
    this.#places.replaceChildren(
      ...places.map(({ kind, place, name }) => {
        const item = document.createElement("li");
        item.className = kind;
        const role = document.createElement("span");
        role.className = "role";
        role.textContent = name;
        const label = document.createElement("span");
        label.className = "name";
        label.textContent = place.name || `${place.latitude.toFixed(4)}, ${place.longitude.toFixed(4)}`;
        item.append(role, label);
        return item;
      }),
    );
  }
}

/** @param {Trip} trip */
function isMoving({ status }) {
  return status === "enroute_to_pickup" || status === "enroute_to_dropoff" || status === "arrived_at_stop";
}

/** @param {Trip} trip returns whether passengers may see its vehicle */
function isUnderWay({ status }) {
  return ["enroute_to_pickup", "arrived_at_pickup", "enroute_to_dropoff", "arrived_at_stop"].includes(status);
}
