/** @typedef {import("../../shared/messages.js").FleetEvent} FleetEvent */

const MAX_KEPT = 500;

/** When an event happened. For an event from a backlog, this is its fix time. @param {FleetEvent} event */
export function instantOf({ late, fix_time: fixTime, server_time: serverTime }) {
  return late ? (fixTime ?? serverTime) : serverTime;
}

const byInstant = (/** @type {FleetEvent} */ one, /** @type {FleetEvent} */ other) => instantOf(one) - instantOf(other) || one.event_id - other.event_id;

/** The fleet's events, each once, in the order in which they happened. */
export class EventLog {
  /** @type {FleetEvent[]} */
  events = [];

  /** The id of the newest known event. Missed events are requested after it; 0 before the first. */
  last = 0;

  /**
   * Adds the new ones among these events, which may be in any order; returns them.
   * @param {readonly FleetEvent[]} events
   */
  add(events) {
    const known = new Set(this.events.map((event) => event.event_id));
    const added = events.filter(({ event_id: id }) => !known.has(id) && known.add(id));
    if (!added.length) return [];
    this.last = added.reduce((last, { event_id: id }) => Math.max(last, id), this.last);
    this.events.push(...added);
    // An old event from a backlog is sorted in by time, so that it does not push out newer events.
    if (this.#isOutOfOrder(added.length)) this.events.sort(byInstant);
    this.events.splice(0, this.events.length - MAX_KEPT);
    return added;
  }

  /** Removes the events of a removed vehicle. @param {string} vehicleId */
  forget(vehicleId) {
    this.events = this.events.filter(({ vehicle_id: id }) => id !== vehicleId);
  }

  /** @param {number} added */
  #isOutOfOrder(added) {
    const tail = this.events.slice(-added - 1);
    return tail.some((event, index) => index > 0 && byInstant(event, tail[index - 1]) < 0);
  }
}
