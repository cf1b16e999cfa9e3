/** @typedef {import("../../shared/messages.js").Trip} Trip */

/** The statuses of an open trip, in their order. */
export const OPEN = /** @type {const} */ (["new", "enroute_to_pickup", "arrived_at_pickup", "enroute_to_dropoff", "arrived_at_stop"]);

/** The most ended trips that are kept. */
const MAX_OVER = 100;

/** @param {Pick<Trip, "status">} trip */
export const isOver = ({ status }) => status === "complete" || status === "canceled";

/** The open trips of the fleet, and the trips that ended while the page was open. */
export class Trips {
  /** @type {Map<string, Trip>} */
  #byId = new Map();
  /** Trips that changed after the list was requested. The list may lack these changes. @type {Set<string>} */
  #heard = new Set();

  /** @param {string} tripId */
  get(tripId) {
    return this.#byId.get(tripId) ?? null;
  }

  /** Call this when the open trips are requested. */
  ask() {
    this.#heard.clear();
  }

  /**
   * Takes the hub's list of open trips. A trip that is missing there has ended or is gone, unless it changed after the request.
   * @param {readonly Trip[]} trips
   */
  replace(trips) {
    const listed = new Set(trips.map((trip) => trip.trip_id));
    for (const id of [...this.#byId.keys()]) if (!listed.has(id) && !this.#heard.has(id)) this.#byId.delete(id);
    for (const trip of trips) if (this.#byId.has(trip.trip_id) || !this.#heard.has(trip.trip_id)) this.put(trip);
  }

  /**
   * Takes a trip if its version is newer. An answer and a message may arrive in the wrong order.
   * @param {Trip} trip
   */
  put(trip) {
    const known = this.#byId.get(trip.trip_id);
    this.#heard.add(trip.trip_id);
    if (known && known.version > trip.version) return known;
    this.#byId.set(trip.trip_id, trip);
    if (isOver(trip)) this.#forgetOldest();
    return trip;
  }

  /** Many trips end while a page is open for weeks. */
  #forgetOldest() {
    const over = [...this.#byId.values()].filter(isOver);
    for (const { trip_id: id } of over.slice(0, -MAX_OVER)) this.#byId.delete(id);
  }

  /** @param {string} tripId */
  remove(tripId) {
    this.#heard.add(tripId);
    this.#byId.delete(tripId);
  }

  /** Open trips. Those without a vehicle come first, because somebody waits. */
  get open() {
    const open = [...this.#byId.values()].filter((trip) => !isOver(trip));
    return open.sort((one, other) => Number(Boolean(one.vehicle)) - Number(Boolean(other.vehicle)) || (one.trip_id < other.trip_id ? -1 : 1));
  }
}
