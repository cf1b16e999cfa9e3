import { Area, cellOf, project } from "./cells.js";

/** @typedef {import("../../shared/messages.js").Fix} Fix */
/** @typedef {import("../../shared/messages.js").Description} Description */
/** @typedef {import("../../shared/messages.js").VehicleStatus} VehicleStatus */

/**
 * A vehicle in view. `x` and `y` are its place in the world, 0 to 1. `from` is where it was shown before. `movedAt` is when the
 * animation from there began.
 * @typedef {object} Vehicle
 * @property {string} id
 * @property {string} name
 * @property {string} kind
 * @property {string} plate
 * @property {VehicleStatus} status
 * @property {string | null} tripId
 * @property {number} clockSkew seconds by which its device's clock is ahead (negative: behind); 0 if it is right
 * @property {number} latitude
 * @property {number} longitude
 * @property {number | null} bearing
 * @property {number | null} speed
 * @property {number | null} battery
 * @property {number} fixTime
 * @property {number} x
 * @property {number} y
 * @property {{x: number, y: number}} from
 * @property {number} movedAt
 * @property {number} glide milliseconds of the animation
 */

/** The longest animation in milliseconds. A vehicle that reports seldom must not move slowly for a minute. */
const LONGEST_GLIDE = 2_000;
const FIRST_GLIDE = 1_000;
/**
 * Milliseconds that a vehicle outside the viewport is kept. The map may be dragged away and back before the hub notices. The hub
 * then does not send the vehicle again.
 */
const KEPT_OUTSIDE = 2_000;
/** A step longer than this is not animated. It is a share of the world, about 400 m. */
const LEAP = 1e-5;

/** @type {Set<string>} */
const STATUSES = new Set(["available", "on_trip", "stopped", "lost"]);

/** The vehicles, or clusters of them, in the dispatcher's viewport. No I/O: messages in, state out. */
export class Vehicles {
  /** @type {Map<string, Vehicle>} */
  byId = new Map();

  /** Clusters in place of vehicles, if there are too many; else null. @type {import("../../shared/messages.js").Cluster[] | null} */
  clusters = null;

  /** The names of all known vehicles, also of those out of view. @type {Map<string, string>} */
  #names = new Map();

  /** Vehicles that were in the viewport a moment ago. @type {Map<string, {vehicle: Vehicle, since: number}>} */
  #outside = new Map();

  /** @type {Area | null} */
  #area = null;

  /** Descriptions of vehicles whose position has not arrived yet. @type {Map<string, Description>} */
  #unplaced = new Map();

  /**
   * Sets the viewport. Vehicles outside get no more updates, so they are dropped after a moment.
   * @param {import("./cells.js").Bounds} bounds
   * @param {number} now milliseconds that only rise
   */
  look(bounds, now) {
    this.#area = new Area(bounds);
    this.#forgetOutside(now);
    for (const { vehicle } of [...this.#outside.values()]) this.#settle(vehicle, now);
    for (const vehicle of this.byId.values()) this.#settle(vehicle, now);
  }

  /**
   * @param {import("../../shared/messages.js").DispatcherMessage} message
   * @param {number} now milliseconds that only rise
   */
  receive(message, now) {
    this.#forgetOutside(now);
    switch (message.type) {
      case "fleet_snapshot":
        this.#replace(message, now);
        break;
      case "fleet":
        for (const description of message.vehicles ?? []) this.#describe(description);
        for (const row of message.positions ?? []) this.#move(row, now);
        for (const id of message.left ?? []) this.#forget(id);
        break;
      case "clusters":
        this.byId.clear();
        this.#outside.clear();
        this.clusters = message.clusters;
        break;
    }
  }

  /** @param {string} id */
  nameOf(id) {
    return this.byId.get(id)?.name ?? this.#names.get(id) ?? id;
  }

  /** @param {{vehicle_id: string, name?: string}} vehicle */
  learn({ vehicle_id: id, name }) {
    if (name) this.#names.set(id, name);
  }

  /** Drops a removed vehicle. @param {string} id */
  remove(id) {
    this.#forget(id);
    this.#names.delete(id);
    this.#unplaced.delete(id);
  }

  /** How many of the vehicles have each status. */
  get counts() {
    /** @type {Record<VehicleStatus, number>} */
    const counts = { available: 0, on_trip: 0, stopped: 0, lost: 0 };
    for (const { status } of this.byId.values()) counts[status] += 1;
    return counts;
  }

  /** @param {import("../../shared/messages.js").FleetSnapshot} snapshot @param {number} now */
  #replace({ cells, vehicles }, now) {
    const listed = new Set(vehicles.map(({ vehicle_id: id }) => id));
    const replaced = new Set(cells);
    for (const vehicle of replaced.size ? [...this.#all()] : []) {
      if (!listed.has(vehicle.id) && replaced.has(cellOf(vehicle))) this.#forget(vehicle.id);
    }
    this.clusters = null;
    for (const state of vehicles) {
      this.learn(state);
      const known = this.#find(state.vehicle_id);
      // An update may be newer than a snapshot that arrives late.
      if (known && known.fixTime > state.fix_time) continue;
      const { latitude, longitude, bearing = null, speed = null, battery = null, fix_time: fixTime } = state;
      const { x, y } = project(latitude, longitude);
      const { from, movedAt, glide } = known ?? { from: { x, y }, movedAt: now, glide: 0 };
      this.#settle({ ...describedBy(state), latitude, longitude, bearing, speed, battery, fixTime, x, y, from, movedAt, glide }, now);
    }
  }

  /** @param {Description} description */
  #describe(description) {
    this.learn(description);
    const vehicle = this.#find(description.vehicle_id);
    if (vehicle) Object.assign(vehicle, describedBy(description));
    else this.#unplaced.set(description.vehicle_id, description);
  }

  /** @param {import("../../shared/messages.js").Row} row @param {number} now */
  #move([id, latitude, longitude, bearing, speed, fixTime], now) {
    const { x, y } = project(latitude, longitude);
    const vehicle = this.#find(id);
    if (!vehicle) {
      const description = this.#unplaced.get(id);
      // A vehicle without a description was dropped here a moment ago, and the hub does not know that yet.
      if (!description || this.clusters) return;
      this.#unplaced.delete(id);
      const place = { latitude, longitude, bearing, speed, battery: null, fixTime, x, y };
      this.#settle({ ...describedBy(description), ...place, from: { x, y }, movedAt: now, glide: 0 }, now);
      return;
    }
    if (fixTime < vehicle.fixTime) return;
    this.#glide(vehicle, fixTime, { x, y }, now);
    Object.assign(vehicle, { latitude, longitude, bearing: bearing ?? vehicle.bearing, speed, fixTime, x, y });
    this.#settle(vehicle, now);
  }

  /** @param {string} id */
  #find(id) {
    return this.byId.get(id) ?? this.#outside.get(id)?.vehicle;
  }

  *#all() {
    yield* this.byId.values();
    for (const { vehicle } of this.#outside.values()) yield vehicle;
  }

  /** Files a vehicle as in view or as outside. @param {Vehicle} vehicle @param {number} now */
  #settle(vehicle, now) {
    const inside = !this.#area || this.#area.holds(vehicle);
    if (inside) {
      this.byId.set(vehicle.id, vehicle);
      this.#outside.delete(vehicle.id);
    } else {
      this.byId.delete(vehicle.id);
      if (!this.#outside.has(vehicle.id)) this.#outside.set(vehicle.id, { vehicle, since: now });
    }
  }

  /** @param {number} now */
  #forgetOutside(now) {
    for (const [id, { since }] of this.#outside) if (now - since > KEPT_OUTSIDE) this.#outside.delete(id);
  }

  /** @param {Vehicle} vehicle @param {number} fixTime @param {{x: number, y: number}} to @param {number} now */
  #glide(vehicle, fixTime, to, now) {
    const shown = placeAt(vehicle, now);
    const leap = Math.hypot(eastward(shown.x, to.x), to.y - shown.y) > LEAP;
    const interval = fixTime - vehicle.fixTime;
    vehicle.from = leap ? to : shown;
    vehicle.movedAt = now;
    vehicle.glide = leap ? 0 : Math.min(interval || FIRST_GLIDE, LONGEST_GLIDE);
  }

  /** @param {string} id */
  #forget(id) {
    this.#outside.delete(id);
    this.byId.delete(id);
  }
}

/** The shorter way round from one world coordinate (0 to 1) to another. @param {number} from @param {number} to */
function eastward(from, to) {
  return to - from - Math.round(to - from);
}

/**
 * The place at which a vehicle is drawn at `now`, between two fixes.
 * @param {Pick<Vehicle, "x" | "y" | "from" | "movedAt" | "glide">} vehicle
 * @param {number} now
 */
export function placeAt({ x, y, from, movedAt, glide }, now) {
  const share = glide > 0 ? Math.min((now - movedAt) / glide, 1) : 1;
  return share >= 1 ? { x, y } : { x: from.x + eastward(from.x, x) * share, y: from.y + (y - from.y) * share };
}

/** @param {Description} description */
function describedBy({ vehicle_id: id, name, kind, plate, status, trip_id: tripId, clock_skew: clockSkew }) {
  return {
    id,
    name: name || id,
    kind: kind ?? "",
    plate: plate ?? "",
    status: /** @type {VehicleStatus} */ (STATUSES.has(status) ? status : "available"),
    tripId: tripId ?? null,
    clockSkew: clockSkew ?? 0,
  };
}
