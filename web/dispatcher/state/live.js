import { ServerClock } from "../../shared/clock.js";
import { Connection } from "../../shared/connection.js";
import { decodeForDispatcher } from "../../shared/messages.js";
import { EventLog } from "./events.js";
import { Geofences } from "./geofences.js";
import { OPEN, Trips } from "./trips.js";
import { Vehicles } from "./vehicles.js";

/** @typedef {import("../../shared/messages.js").DispatcherMessage} DispatcherMessage */
/** @typedef {import("../../shared/close_codes.js").Ending} Ending */

/**
 * @typedef {object} Options
 * @property {import("./api.js").Api} api
 * @property {string} url of the fleet's socket
 * @property {string} token
 * @property {() => {bounds: import("./cells.js").Bounds, zoom: number} | null} view the present viewport
 * @property {(part: "vehicles" | "trips" | "geofences") => void} onChange
 * @property {(events: import("../../shared/messages.js").FleetEvent[], fresh: boolean) => void} onEvents `fresh` says that they have just happened
 * @property {(vehicleId: string) => void} onGone the vehicle was removed and must not be shown any more
 * @property {(done: import("../../shared/messages.js").Done) => void} onDone
 * @property {(ending: Ending | null) => void} onState
 * @property {import("../../shared/connection.js").World} [world]
 */

/** Milliseconds before another attempt. After a reconnect the hub may still be loading. */
const TRY_AGAIN = 3_000;
/** The most events that the hub lists at once. */
const PAGE = 200;

/** The live state of the fleet, from its socket. After a disconnection it fetches the missed data over HTTP. */
export class Live {
  clock = new ServerClock();
  vehicles = new Vehicles();
  trips = new Trips();
  geofences = new Geofences();
  log = new EventLog();
  /** True once the hub sends messages; an open socket is not enough. */
  up = false;

  #options;
  #connection;
  #caughtUp = false;
  /** No event up to this id is missing. The log may have newer ones, received before a gap was filled. */
  #heardUntil = 0;
  /** @type {number | undefined} */
  #timer;

  /** @param {Options} options */
  constructor(options) {
    this.#options = options;
    this.#connection = new Connection({
      url: options.url,
      token: options.token,
      world: options.world,
      cursor: () => null,
      onOpen: () => undefined,
      onFrame: (frame) => this.#receive(decodeForDispatcher(frame)),
      onState: (state, ending) => this.#changed(state, ending),
    });
  }

  get connection() {
    return this.#connection;
  }

  /** The hub's time. */
  now() {
    return this.clock.at(Date.now());
  }

  /** Sends the new viewport. @param {import("./cells.js").Bounds} bounds @param {number} zoom */
  look(bounds, zoom) {
    this.#connection.send({ type: "viewport", bounds, zoom });
    this.vehicles.look(bounds, performance.now());
    this.#options.onChange("vehicles");
  }

  /** Sends a text to a trip's driver and passengers. @param {string} tripId @param {string} text @param {string} clientId */
  write(tripId, text, clientId) {
    return this.#connection.send({ type: "message", trip_id: tripId, text, client_id: clientId });
  }

  /** @param {import("../../shared/connection.js").ConnectionState} state @param {Ending | null} ending */
  #changed(state, ending) {
    if (state === "open") {
      const view = this.#options.view();
      if (view) this.look(view.bounds, view.zoom);
    } else {
      if (this.#caughtUp) this.#heardUntil = this.log.last;
      this.up = false;
      this.#caughtUp = false;
      clearTimeout(this.#timer);
    }
    this.#options.onState(ending);
  }

  /** @param {DispatcherMessage} message */
  #receive(message) {
    if (message.type !== "unknown" && !this.up) {
      this.up = true;
      this.#options.onState(null);
      this.#catchUp();
    }
    const { onChange } = this.#options;
    switch (message.type) {
      case "fleet_snapshot":
      case "fleet":
      case "clusters":
        this.vehicles.receive(message, performance.now());
        onChange("vehicles");
        break;
      case "event":
        this.#take([message], true);
        break;
      case "trip":
        this.trips.put(message.trip);
        onChange("trips");
        break;
      case "trip_gone":
        this.trips.remove(message.trip_id);
        onChange("trips");
        break;
      case "vehicle_gone":
        this.vehicles.remove(message.vehicle_id);
        this.log.forget(message.vehicle_id);
        this.#options.onGone(message.vehicle_id);
        onChange("vehicles");
        break;
      case "geofence":
        this.geofences.put(message.geofence);
        onChange("geofences");
        // The editor needs the whole geofence.
        if (message.simplified) this.#fetchWhole(message.geofence.id);
        break;
      case "geofence_gone":
        this.geofences.remove(message.geofence_id);
        onChange("geofences");
        break;
      case "done":
        this.#options.onDone(message);
        break;
      case "tick":
        this.clock.hear(message.server_time, Date.now());
        break;
    }
  }

  /** Fetches what was missed during a disconnection. The socket is open already, so that nothing is missed in between. */
  async #catchUp() {
    const { api, onChange } = this.#options;
    this.trips.ask();
    this.geofences.ask();
    const missed = this.#missed();
    const geofences = api.geofences().then((all) => {
      this.geofences.replace(all);
      onChange("geofences");
    });
    const trips = Promise.all(OPEN.map((status) => api.trips(status))).then((all) => {
      this.trips.replace(all.flat());
      onChange("trips");
    });
    const outcomes = await Promise.allSettled([missed, geofences, trips]);
    this.#caughtUp = outcomes.every(({ status }) => status === "fulfilled");
    if (!this.#caughtUp) this.#timer = setTimeout(() => this.up && !this.#caughtUp && this.#catchUp(), TRY_AGAIN);
  }

  /** @param {string} id */
  async #fetchWhole(id) {
    const { api, onChange } = this.#options;
    try {
      this.geofences.put(await api.geofence(id));
      onChange("geofences");
    } catch {
      this.#catchUp();
    }
  }

  /** The newest events the first time, later all since the last one before the disconnection. */
  async #missed() {
    const { api } = this.#options;
    let after = this.#heardUntil;
    if (!after) this.#take((await Promise.all([api.events(0), api.news()])).flat(), false);
    for (let more = after > 0; more; ) {
      const events = await api.events(after);
      this.#take(events, true);
      more = events.length >= PAGE;
      after = events.at(-1)?.event_id ?? after;
    }
    this.#heardUntil = this.log.last;
  }

  /** @param {import("../../shared/messages.js").FleetEvent[]} events @param {boolean} fresh */
  #take(events, fresh) {
    const added = this.log.add(events);
    if (added.length) this.#options.onEvents(added, fresh);
  }
}
