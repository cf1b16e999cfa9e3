/** The hub's HTTP API, as far as a dispatcher uses it. */

import { hubAddress } from "../../shared/hub.js";
import { fromHub } from "../../shared/text.js";

/** @typedef {import("../../shared/messages.js").Trip} Trip */
/** @typedef {import("../../shared/messages.js").Geofence} Geofence */
/** @typedef {import("../../shared/messages.js").FleetEvent} FleetEvent */
/** @typedef {import("../../shared/messages.js").VehicleStatus} VehicleStatus */

/**
 * @typedef {{vehicle_id: string, name: string, kind: string, plate: string, status: VehicleStatus, trip_id?: string, clock_skew?: number, latitude?: number, longitude?: number, fix_time?: number, speed?: number, bearing?: number, battery?: number}} FoundVehicle
 * @typedef {{vehicle_id: string, name: string, kind: string, plate: string, distance: number, latitude: number, longitude: number, fix_time: number}} NearVehicle
 * @typedef {{latitude: number, longitude: number, fix_time: number, server_time: number, speed?: number, bearing?: number, accuracy?: number, battery?: number}} Position
 * @typedef {{vehicle_id: string, fleet_id: string, name: string, kind: string, plate: string, status?: VehicleStatus, trip_id?: string, clock_skew?: number, position?: Position}} VehicleView
 * @typedef {{fleet_id: string, name: string, speed_limit?: number, idle_after?: number, off_route_distance?: number, signal_lost_after?: number, dwell_after?: number}} FleetSettings
 * @typedef {{share_id: string, expires_at: number, revoked_at?: number, created_at?: number}} Share
 * @typedef {{day: string, distance: number, driving_time: number, stops: number, top_speed?: number, positions: number}} Day
 */

/** The hub refused a request. */
export class Refused extends Error {
  /** @param {number} status @param {string} code @param {string} detail */
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

/** @param {unknown} error returns its text for the dispatcher */
export function reasonOf(error) {
  if (error instanceof Refused) return error.message;
  return "The hub can’t be reached. Try again in a moment.";
}

/** The most trips that the hub lists at once. */
const TRIPS_PAGE = 1_000;
const { encodeURIComponent: part } = globalThis;

export class Api {
  #token;
  #fleet;

  /** @param {string} token @param {string} fleetId */
  constructor(token, fleetId) {
    this.#token = token;
    this.#fleet = `/fleets/${part(fleetId)}`;
    this.fleetId = fleetId;
  }

  /** @returns {Promise<FleetSettings>} */
  fleet() {
    return this.#json("GET", this.#fleet);
  }

  /** @param {Omit<FleetSettings, "fleet_id">} settings @returns {Promise<FleetSettings>} */
  putFleet(settings) {
    return this.#json("PUT", this.#fleet, settings);
  }

  /** @param {string} search @param {number} limit @returns {Promise<FoundVehicle[]>} */
  async search(search, limit) {
    return (await this.#json("GET", `${this.#fleet}/vehicles?search=${part(search)}&limit=${limit}`)).vehicles;
  }

  /** @param {{latitude: number, longitude: number}} place @param {number} limit @returns {Promise<NearVehicle[]>} */
  async nearest({ latitude, longitude }, limit) {
    return (await this.#json("GET", `${this.#fleet}/vehicles?near=${latitude},${longitude}&available=true&limit=${limit}`)).vehicles;
  }

  /** @param {string} vehicleId @returns {Promise<VehicleView>} */
  vehicle(vehicleId) {
    return this.#json("GET", `/vehicles/${part(vehicleId)}`);
  }

  /** @param {string} vehicleId @param {string} from @param {string} to @returns {Promise<Day[]>} */
  async days(vehicleId, from, to) {
    return (await this.#json("GET", `/vehicles/${part(vehicleId)}/days?from=${from}&to=${to}`)).days;
  }

  /** All trips with this status, fetched in pages. @param {string} status @returns {Promise<Trip[]>} */
  async trips(status) {
    /** @type {Map<string, Trip>} */
    const found = new Map();
    for (let before = ""; ; ) {
      /** @type {Trip[]} */
      const page = (await this.#json("GET", `${this.#fleet}/trips?status=${status}&limit=${TRIPS_PAGE}${before}`)).trips;
      const known = found.size;
      for (const trip of page) found.set(trip.trip_id, trip);
      if (page.length < TRIPS_PAGE || found.size === known) return [...found.values()];
      // The newest come first. Several may have the same millisecond.
      before = `&before=${Number(page[page.length - 1].created_at) + 1}`;
    }
  }

  /** @param {object} trip @returns {Promise<Trip>} */
  createTrip(trip) {
    return this.#json("POST", "/trips", { fleet_id: this.fleetId, ...trip });
  }

  /** @param {string} tripId @returns {Promise<Trip>} */
  trip(tripId) {
    return this.#json("GET", `/trips/${part(tripId)}`);
  }

  /** @param {string} tripId @param {{version: number, status?: string, vehicle_id?: string | null}} change @returns {Promise<Trip>} */
  changeTrip(tripId, change) {
    return this.#json("PATCH", `/trips/${part(tripId)}`, change);
  }

  /** @param {string} tripId @returns {Promise<Share[]>} */
  async shares(tripId) {
    return (await this.#json("GET", `/trips/${part(tripId)}/shares`)).shares;
  }

  /** @param {string} tripId @param {number} expiresIn seconds @returns {Promise<Share & {url: string}>} */
  share(tripId, expiresIn) {
    return this.#json("POST", `/trips/${part(tripId)}/shares`, { expires_in: expiresIn });
  }

  /** @param {string} shareId */
  async revoke(shareId) {
    await this.#ask("DELETE", `/shares/${part(shareId)}`);
  }

  /** @returns {Promise<Geofence[]>} */
  async geofences() {
    return (await this.#json("GET", `${this.#fleet}/geofences`)).features;
  }

  /** @param {string} id @returns {Promise<Geofence>} */
  geofence(id) {
    return this.#json("GET", `${this.#fleet}/geofences/${part(id)}`);
  }

  /** @param {Geofence} geofence @returns {Promise<Geofence>} */
  putGeofence(geofence) {
    return this.#json("PUT", `${this.#fleet}/geofences/${part(geofence.id)}`, geofence);
  }

  /** @param {string} geofenceId */
  async removeGeofence(geofenceId) {
    await this.#ask("DELETE", `${this.#fleet}/geofences/${part(geofenceId)}`);
  }

  /** The newest events, or those after a known one. @param {number} after @returns {Promise<FleetEvent[]>} */
  async events(after) {
    return (await this.#json("GET", `${this.#fleet}/events${after ? `?after=${after}` : ""}`)).events;
  }

  /** The newest events that are not from backlogs. A backlog may fill a whole page. @returns {Promise<FleetEvent[]>} */
  async news() {
    return (await this.#json("GET", `${this.#fleet}/events?late=false`)).events;
  }

  /** @param {string} vehicleId @param {number} from @param {number} to @param {"csv" | "gpx"} format */
  async track(vehicleId, from, to, format) {
    return (await this.#ask("GET", `/vehicles/${part(vehicleId)}/track?from=${from}&to=${to}&format=${format}`)).blob();
  }

  /** @param {string} method @param {string} path @param {object} [body] @returns {Promise<any>} */
  async #json(method, path, body) {
    return fromHub(await (await this.#ask(method, path, body)).text());
  }

  /** @param {string} method @param {string} path @param {object} [body] */
  async #ask(method, path, body) {
    /** @type {Record<string, string>} */
    const headers = { Authorization: `Bearer ${this.#token}` };
    if (body) headers["Content-Type"] = "application/json";
    const answer = await fetch(hubAddress(`v1${path}`), { method, headers, body: body && JSON.stringify(body) });
    if (answer.ok) return answer;
    const { error } = await answer.json().catch(() => ({ error: null }));
    throw new Refused(answer.status, error?.code ?? "", error?.detail ?? `The hub answered ${answer.status}.`);
  }
}
