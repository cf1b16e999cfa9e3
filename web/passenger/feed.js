import { ServerClock } from "../shared/clock.js";
import { Track } from "./track.js";

/** @typedef {import("../shared/messages.js").PassengerMessage} PassengerMessage */

/** Messages that are remembered. A snapshot brings at most as many. */
const REMEMBERED = 100;

/**
 * The result of a message. `applied`: the state changed. `ignored`: a repeat, or a message without state. `gap`: updates are
 * missing, and the feed needs a snapshot.
 * @typedef {"applied" | "ignored" | "gap"} Outcome
 */

/** The state of one trip on the passenger's page, updated by the hub's messages. No I/O: messages in, state out. */
export class Feed {
  track = new Track();
  clock = new ServerClock();

  /** @type {import("../shared/messages.js").Trip | null} */
  trip = null;

  /** @type {import("../shared/messages.js").Position | null} */
  position = null;

  /** @type {import("../shared/messages.js").Progress | null} */
  progress = null;

  /**
   * Messages of the last snapshot that were not received before.
   * @type {import("../shared/messages.js").PastMessage[]}
   */
  missedMessages = [];

  /** @type {{epoch: string, offset: number} | null} */
  #cursor = null;

  /** The newest `server_time` of a position or a message. Ticks do not count: something may be on its way. */
  #since = 0;

  /** The last messages, so that none is shown twice. @type {string[]} */
  #messages = [];

  /** Whether this connection has said where it continues. An offset has no meaning before that. */
  #synced = false;

  /** The point to resume from, or null if a snapshot is needed. */
  get cursor() {
    if (!this.#cursor) return null;
    return this.#since ? { ...this.#cursor, since: this.#since } : { ...this.#cursor };
  }

  /** A new connection begins. */
  begin() {
    this.#synced = false;
  }

  /** Drops the cursor. The present state stays on the page until the snapshot arrives. */
  forget() {
    this.#cursor = null;
    this.#synced = false;
  }

  /**
   * @param {PassengerMessage} message
   * @param {number} localTime this device's clock, as an instant
   * @returns {Outcome}
   */
  receive(message, localTime) {
    switch (message.type) {
      case "snapshot":
        if (message.since !== undefined && this.trip) this.#continue(message);
        else this.#replace(message);
        this.missedMessages = (message.messages ?? []).filter((one) => this.#isNew(one));
        this.clock.hear(message.server_time, localTime);
        return "applied";
      case "resumed":
        if (this.#cursor?.epoch !== message.epoch || this.#cursor.offset !== message.offset) return "gap";
        this.#synced = true;
        return "applied";
      case "tick":
        this.clock.hear(message.server_time, localTime);
        return "ignored";
      case "skipped":
        return this.#skip(message.from, message.to);
    }
    if (message.offset === undefined) return "ignored";
    if (!this.#synced || !this.#cursor) return "gap";
    if (message.offset <= this.#cursor.offset) return "ignored";
    if (message.offset !== this.#cursor.offset + 1) return "gap";
    this.#cursor.offset = message.offset;
    return this.#update(message);
  }

  /** @param {Exclude<PassengerMessage, {type: "snapshot" | "resumed" | "tick" | "skipped"}>} message @returns {Outcome} */
  #update(message) {
    switch (message.type) {
      case "position":
        this.track.add([message.longitude, message.latitude, message.fix_time]);
        this.#hear(message.server_time);
        if (this.position && message.fix_time <= this.position.fix_time) return "ignored";
        this.position = message;
        return "applied";
      case "trip":
        this.#take(message.trip);
        return "applied";
      case "progress":
        this.progress = message;
        return "applied";
      case "track_revised":
        this.track.revise(message.from, message.to, message.track, message.segments);
        return "applied";
      case "message":
        return this.#isNew(message) ? "applied" : "ignored";
    }
    return "ignored";
  }

  /** @param {number} serverTime */
  #hear(serverTime) {
    this.#since = Math.max(this.#since, serverTime);
  }

  /** Whether a message is new. @param {import("../shared/messages.js").PastMessage} message */
  #isNew({ from, server_time, text }) {
    const key = JSON.stringify([from, server_time, text]);
    this.#hear(server_time);
    if (this.#messages.includes(key)) return false;
    this.#messages = [...this.#messages.slice(1 - REMEMBERED), key];
    return true;
  }

  /** Takes a snapshot whose track adds to the line. @param {import("../shared/messages.js").Snapshot} message */
  #continue({ epoch, offset, trip, position, progress, track, segments }) {
    this.#cursor = { epoch, offset };
    this.#synced = true;
    this.#take(trip);
    this.track.merge(track, segments);
    if (progress) this.progress = progress;
    if (!position) return;
    this.#hear(position.server_time);
    this.track.add([position.longitude, position.latitude, position.fix_time]);
    if (!this.position || position.fix_time > this.position.fix_time) this.position = position;
  }

  /** @param {import("../shared/messages.js").Snapshot} message */
  #replace({ epoch, offset, trip, position, progress, track, segments }) {
    this.#cursor = { epoch, offset };
    this.#synced = true;
    this.#take(trip);
    this.position = position ?? null;
    this.progress = progress ?? null;
    this.track.replace(track, segments);
    // A position is shown before its commit. The line of a snapshot has only committed positions.
    if (position) this.track.add([position.longitude, position.latitude, position.fix_time]);
    // It is another state than before, which may be older.
    this.#since = position?.server_time ?? 0;
  }

  /** Takes a trip. If its vehicle changed, the old position is dropped. @param {import("../shared/messages.js").Trip} trip */
  #take(trip) {
    this.trip = trip;
    const vehicle = trip.vehicle?.vehicle_id;
    // A trip that is over does not name its vehicle.
    if (vehicle === undefined || vehicle === this.track.vehicle) return;
    this.track.giveTo(vehicle);
    this.position = null;
    this.progress = null;
  }

  /** @param {number} from @param {number} to @returns {Outcome} */
  #skip(from, to) {
    if (!this.#synced || !this.#cursor || from > this.#cursor.offset + 1) return "gap";
    this.#cursor.offset = Math.max(this.#cursor.offset, to);
    return "ignored";
  }
}
