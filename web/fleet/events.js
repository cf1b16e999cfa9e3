/** @typedef {import("./messages.js").FleetEvent} FleetEvent */

const MOST_KEPT = 500;

/** What happened in the fleet, each event once, oldest first. */
export class EventLog {
  /** @type {FleetEvent[]} */
  events = [];

  /** The newest event known, from which to ask for those missed; 0 before the first. */
  get last() {
    return this.events.at(-1)?.event_id ?? 0;
  }

  /**
   * Takes those that are new, in any order; the events that were added.
   * @param {readonly FleetEvent[]} events
   */
  add(events) {
    const known = new Set(this.events.map((event) => event.event_id));
    const added = events.filter(({ event_id: id }) => !known.has(id) && known.add(id));
    if (!added.length) return [];
    this.events.push(...added);
    if (this.#isOutOfOrder(added.length)) this.events.sort((one, other) => one.event_id - other.event_id);
    this.events.splice(0, this.events.length - MOST_KEPT);
    return added;
  }

  /** @param {number} added */
  #isOutOfOrder(added) {
    const tail = this.events.slice(-added - 1);
    return tail.some((event, index) => index > 0 && event.event_id < tail[index - 1].event_id);
  }
}
