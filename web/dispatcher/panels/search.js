import { byId, h, write } from "../../shared/dom.js";
import { VEHICLE_STATUS } from "../labels.js";
import { glyphIcon } from "../map/glyphs.js";
import { matches, roster, STATUSES } from "../state/roster.js";

/** @typedef {import("../../shared/messages.js").VehicleStatus} VehicleStatus */
/** @typedef {import("./vehicle_list.js").Line} Line */
/** @typedef {import("./vehicle_list.js").ListedVehicle} ListedVehicle */

/** Milliseconds after the last key, so that the hub is not asked for each letter. */
const REST = 250;
const MAX_FOUND = 50;

/** The search: words, statuses and an order. This page searches the vehicles in view. The hub searches the rest of the fleet. */
export class Search {
  text = "";
  /** @type {Set<VehicleStatus>} */
  statuses = new Set();
  /** @type {import("../state/roster.js").Order} */
  order = "name";

  /** @type {import("../state/api.js").FoundVehicle[]} */
  #found = [];
  #chips = new Map(STATUSES.map((status) => [status, h("span", { class: "number" }, "0")]));
  #api;
  #onChange;
  /** @type {number | undefined} */
  #timer;

  /** @param {import("../state/api.js").Api} api @param {() => void} onChange */
  constructor(api, onChange) {
    this.#api = api;
    this.#onChange = onChange;
    const input = /** @type {HTMLInputElement} */ (byId("search"));
    input.addEventListener("input", () => this.#sought(input.value.trim()));
    byId("order").addEventListener("change", ({ target }) => {
      this.order = /** @type {import("../state/roster.js").Order} */ (/** @type {HTMLSelectElement} */ (target).value);
      onChange();
    });
    byId("statuses").append(...[...this.#chips].map(([status, number]) => this.#chip(status, number)));
  }

  /** Drops a removed vehicle. @param {string} vehicleId */
  forget(vehicleId) {
    this.#found = this.#found.filter(({ vehicle_id: id }) => id !== vehicleId);
  }

  /** Whether a vehicle passes the filters. Other vehicles are hidden on the map too. @param {import("../state/roster.js").Listed} vehicle */
  passes(vehicle) {
    if (this.statuses.size && !this.statuses.has(vehicle.status)) return false;
    return !this.text || matches(vehicle, this.text);
  }

  /**
   * The lines of the list: vehicles in view, and below them vehicles that the hub found elsewhere.
   * @param {Iterable<ListedVehicle>} inView
   * @returns {Line[]}
   */
  lines(inView) {
    /** @type {Line[]} */
    const lines = roster(inView, { search: this.text, statuses: this.statuses, order: this.order }).map((vehicle) => ({ vehicle, away: false }));
    const here = new Set(lines.map((line) => ("vehicle" in line ? line.vehicle.id : "")));
    const found = this.#found.filter(({ vehicle_id: id }) => !here.has(id)).map(listedOf);
    const away = roster(found, { statuses: this.statuses, order: this.order });
    if (away.length) lines.push({ heading: "Elsewhere in the fleet" }, ...away.map((vehicle) => ({ vehicle, away: true })));
    return lines;
  }

  /** The position of a vehicle that the hub found out of view. @param {string} id */
  placeOf(id) {
    const { latitude, longitude } = this.#found.find(({ vehicle_id }) => vehicle_id === id) ?? {};
    return latitude === undefined || longitude === undefined ? null : { latitude, longitude };
  }

  /** @param {Record<VehicleStatus, number> | null} counts null if only the total is known */
  showCounts(counts) {
    for (const [status, number] of this.#chips) write(number, counts ? String(counts[status]) : "–");
  }

  /** @param {string} text */
  #sought(text) {
    this.text = text;
    clearTimeout(this.#timer);
    if (text) this.#timer = setTimeout(() => this.#ask(text), REST);
    else this.#found = [];
    this.#onChange();
  }

  /** @param {string} text */
  async #ask(text) {
    /** @type {import("../state/api.js").FoundVehicle[]} */
    let found;
    try {
      found = await this.#api.search(text, MAX_FOUND);
    } catch {
      // Vehicles in view are still found. The line at the top says that the hub is away.
      found = [];
    }
    if (text !== this.text) return;
    this.#found = found;
    this.#onChange();
  }

  /** @param {VehicleStatus} status @param {HTMLElement} number */
  #chip(status, number) {
    const toggle = (/** @type {Event} */ { currentTarget }) => {
      const pressed = this.statuses.delete(status) ? false : Boolean(this.statuses.add(status));
      /** @type {Element} */ (currentTarget).setAttribute("aria-pressed", String(pressed));
      this.#onChange();
    };
    return h("button", { type: "button", class: "chip", "aria-pressed": "false", "data-status": status, onclick: toggle }, glyphIcon(status), VEHICLE_STATUS[status], number);
  }
}

/** @param {import("../state/api.js").FoundVehicle} found @returns {ListedVehicle} */
function listedOf({ vehicle_id: id, name, plate, kind, status, clock_skew: clockSkew = 0, fix_time: fixTime, speed }) {
  // A vehicle without any data has no status yet.
  return { id, name: name || id, plate, kind, status: STATUSES.includes(status) ? status : "lost", clockSkew, fixTime: fixTime ?? null, speed: speed ?? null };
}
