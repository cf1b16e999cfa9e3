/** @typedef {import("../../shared/messages.js").FleetEvent} FleetEvent */

const MAX_KEPT = 500;

/** When an event happened: what a backlog told, by the clock of its vehicle. @param {FleetEvent} event */
export function instantOf({ late, fix_time: fixTime, server_time: serverTime }) {
  return late ? (fixTime ?? serverTime) : serverTime;
}

const byInstant = (/** @type {FleetEvent} */ one, /** @type {FleetEvent} */ other) => instantOf(one) - instantOf(other) || one.event_id - other.event_id;

/** What happened in the fleet, each event once, in the order in which it happened. */
export class EventLog {
  /** @type {FleetEvent[]} */
  events = [];

  /** The newest event known, from which to ask for those missed; 0 before the first. */
  last = 0;

  /**
   * Takes those that are new, in any order; the events that were added.
   * @param {readonly FleetEvent[]} events
   */
  add(events) {
    const known = new Set(this.events.map((event) => event.event_id));
    const added = events.filter(({ event_id: id }) => !known.has(id) && known.add(id));
    if (!added.length) return [];
    this.last = added.reduce((last, { event_id: id }) => Math.max(last, id), this.last);
    this.events.push(...added);
    // What a backlog tells of last week goes where it belongs, and pushes no news out.
    if (this.#isOutOfOrder(added.length)) this.events.sort(byInstant);
    this.events.splice(0, this.events.length - MAX_KEPT);
    return added;
  }

  /** The vehicle was removed, and its events with it. @param {string} vehicleId */
  forget(vehicleId) {
    this.events = this.events.filter(({ vehicle_id: id }) => id !== vehicleId);
  }

  /** @param {number} added */
  #isOutOfOrder(added) {
    const tail = this.events.slice(-added - 1);
    return tail.some((event, index) => index > 0 && byInstant(event, tail[index - 1]) < 0);
  }
}
