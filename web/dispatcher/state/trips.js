/** @typedef {import("../../shared/messages.js").Trip} Trip */

/** The statuses of a trip that is still to be done, in the order of a trip's life. */
export const OPEN = /** @type {const} */ (["new", "enroute_to_pickup", "arrived_at_pickup", "enroute_to_dropoff", "arrived_at_stop"]);

/** Of those that ended only the last ones may still be looked at. */
const MAX_OVER = 100;

/** @param {Pick<Trip, "status">} trip */
export const isOver = ({ status }) => status === "complete" || status === "canceled";

/** The trips of the fleet that are not over, and those that ended while the page looked on. */
export class Trips {
  /** @type {Map<string, Trip>} */
  #byId = new Map();
  /** What was heard since a list was asked for, which the list may not know yet. @type {Set<string>} */
  #heard = new Set();

  /** @param {string} tripId */
  get(tripId) {
    return this.#byId.get(tripId) ?? null;
  }

  /** The hub is asked for what is open. */
  ask() {
    this.#heard.clear();
  }

  /**
   * What is open, as the hub lists it; what it doesn't list any more has ended or gone, unless it was heard of meanwhile.
   * @param {readonly Trip[]} trips
   */
  replace(trips) {
    const listed = new Set(trips.map((trip) => trip.trip_id));
    for (const id of [...this.#byId.keys()]) if (!listed.has(id) && !this.#heard.has(id)) this.#byId.delete(id);
    for (const trip of trips) if (this.#byId.has(trip.trip_id) || !this.#heard.has(trip.trip_id)) this.put(trip);
  }

  /**
   * An answer and a message may cross on their way: the higher version is the newer.
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

  /** A page that is open for weeks sees many trips end. */
  #forgetOldest() {
    const over = [...this.#byId.values()].filter(isOver);
    for (const { trip_id: id } of over.slice(0, -MAX_OVER)) this.#byId.delete(id);
  }

  /** @param {string} tripId */
  remove(tripId) {
    this.#heard.add(tripId);
    this.#byId.delete(tripId);
  }

  /** Those without a vehicle first: somebody waits for them. */
  get open() {
    const open = [...this.#byId.values()].filter((trip) => !isOver(trip));
    return open.sort((one, other) => Number(Boolean(one.vehicle)) - Number(Boolean(other.vehicle)) || (one.trip_id < other.trip_id ? -1 : 1));
  }
}
