/** Which vehicles the list beside the map shows, and in which order. */

import { searchKey } from "./search_key.js";

/** @typedef {import("../../shared/messages.js").VehicleStatus} VehicleStatus */
/** @typedef {{id: string, name: string, plate: string, status: VehicleStatus, clockSkew: number, fixTime: number | null}} Listed */
/** @typedef {"name" | "status" | "seen"} Order */

/** In the order of their use to a dispatcher. @type {VehicleStatus[]} */
export const STATUSES = ["available", "on_trip", "stopped", "lost"];

const { compare } = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
const byName = (/** @type {Listed} */ one, /** @type {Listed} */ other) => compare(one.name, other.name) || (one.id < other.id ? -1 : one.id > other.id ? 1 : 0);

/** @type {Record<Order, (one: Listed, other: Listed) => number>} */
const ORDERS = {
  name: byName,
  status: (one, other) => STATUSES.indexOf(one.status) - STATUSES.indexOf(other.status) || byName(one, other),
  // The order is by minutes. By milliseconds, the rows would move all the time.
  seen: (one, other) => minute(other) - minute(one) || byName(one, other),
};

/** @param {Listed} vehicle */
const minute = ({ fixTime }) => Math.floor((fixTime ?? 0) / 60_000);

/**
 * Whether every word searched for is in the vehicle's name, plate or id; a plate is found without its spaces too.
 * @param {Pick<Listed, "id" | "name" | "plate">} vehicle
 * @param {string} search
 */
export function matches({ id, name, plate }, search) {
  const text = searchKey(`${name} ${plate} ${plate.replace(/[\s-]/g, "")} ${id}`);
  return search.split(/\s+/).every((word) => text.includes(searchKey(word)));
}

/**
 * @template {Listed} V
 * @param {Iterable<V>} vehicles
 * @param {{search?: string, statuses?: ReadonlySet<VehicleStatus>, order?: Order}} [wanted] no statuses mean all of them
 * @returns {V[]}
 */
export function roster(vehicles, { search = "", statuses = new Set(), order = "name" } = {}) {
  const found = [];
  for (const vehicle of vehicles) {
    if (statuses.size && !statuses.has(vehicle.status)) continue;
    if (search && !matches(vehicle, search)) continue;
    found.push(vehicle);
  }
  return found.sort(ORDERS[order]);
}
