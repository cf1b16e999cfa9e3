/** The messages of a dispatcher's socket, and the way from a frame to one. */

import { fromHub } from "../shared/text.js";

/**
 * @typedef {import("../shared/messages.js").Trip} Trip
 * @typedef {"available" | "on_trip" | "stopped" | "lost"} VehicleStatus
 *
 * What is said of a vehicle beside its place.
 * @typedef {object} Description
 * @property {string} vehicle_id
 * @property {string} [name]
 * @property {string} [kind]
 * @property {string} [plate]
 * @property {VehicleStatus} status
 * @property {string} [trip_id]
 * @property {number} [clock_skew] seconds by which its device's clock is ahead (negative: behind), where it is wrong
 *
 * @typedef {object} Fix
 * @property {number} latitude
 * @property {number} longitude
 * @property {number} fix_time
 * @property {number} [bearing]
 * @property {number} [speed]
 * @property {number} [accuracy]
 * @property {number} [battery]
 *
 * @typedef {Description & Fix} SnapshotVehicle
 * @typedef {[vehicleId: string, latitude: number, longitude: number, bearing: number | null, speed: number | null, fixTime: number]} Row
 * @typedef {[latitude: number, longitude: number, count: number]} Cluster
 *
 * @typedef {"enter" | "exit" | "dwell" | "speeding" | "off_route" | "idle" | "signal_lost" | "signal_back"} EventKind
 *
 * @typedef {object} FleetEvent
 * @property {number} event_id rises
 * @property {EventKind} kind
 * @property {string} vehicle_id
 * @property {number} server_time
 * @property {string} [geofence_id]
 * @property {number} [fix_time]
 * @property {number} [latitude]
 * @property {number} [longitude]
 * @property {string} [trip_id]
 * @property {number} [speed]
 * @property {number} [limit]
 * @property {boolean} [late] it came out of a backlog, and is no news
 *
 * @typedef {object} Geofence
 * @property {"Feature"} type
 * @property {string} id
 * @property {{type: "Polygon" | "MultiPolygon", coordinates: any[]}} geometry
 * @property {{name?: string, speed_limit?: number, dwell_after?: number, [other: string]: unknown}} properties
 */

/**
 * @typedef {{type: "fleet_snapshot", cells: string[], vehicles: SnapshotVehicle[]}} FleetSnapshot
 * @typedef {{type: "fleet", positions: Row[], left?: string[], vehicles?: Description[]}} FleetUpdate
 * @typedef {{type: "clusters", clusters: Cluster[]}} Clusters
 * @typedef {{type: "event"} & FleetEvent} EventMessage
 * @typedef {{type: "trip", trip: Trip}} TripMessage
 * @typedef {{type: "trip_gone", trip_id: string}} TripGone
 * @typedef {{type: "vehicle_gone", vehicle_id: string}} VehicleGone
 * @typedef {{type: "geofence", geofence: Geofence, simplified?: boolean}} GeofenceMessage
 * @typedef {{type: "geofence_gone", geofence_id: string}} GeofenceGone
 * @typedef {{type: "tick", server_time: number}} Tick
 * @typedef {{type: "done", client_id: string, code?: string, detail?: string}} Done
 * @typedef {{type: "error", code: string, detail: string}} ErrorMessage
 * @typedef {FleetSnapshot | FleetUpdate | Clusters | EventMessage | TripMessage | TripGone | VehicleGone | GeofenceMessage | GeofenceGone | Tick | Done | ErrorMessage | {type: "unknown"}} FleetMessage
 */

const isNumber = (/** @type {unknown} */ value) => typeof value === "number" && Number.isFinite(value);
const isText = (/** @type {unknown} */ value) => typeof value === "string";
const isObject = (/** @type {unknown} */ value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isPoint = (/** @type {any} */ value) => isObject(value) && isNumber(value.latitude) && isNumber(value.longitude);
const isListOrAbsent = (/** @type {unknown} */ value) => value === undefined || Array.isArray(value);

/** @type {Record<string, (fields: any) => boolean>} */
const WELL_FORMED = {
  fleet_snapshot: (m) => Array.isArray(m.cells) && Array.isArray(m.vehicles) && m.vehicles.every((/** @type {any} */ vehicle) => isPoint(vehicle) && isText(vehicle.vehicle_id)),
  fleet: (m) => isListOrAbsent(m.positions) && isListOrAbsent(m.left) && isListOrAbsent(m.vehicles),
  clusters: (m) => Array.isArray(m.clusters),
  event: (m) => isNumber(m.event_id) && isText(m.kind) && isText(m.vehicle_id) && isNumber(m.server_time),
  trip: (m) => isObject(m.trip) && isText(m.trip.trip_id) && isText(m.trip.status) && isPoint(m.trip.pickup) && isPoint(m.trip.dropoff),
  trip_gone: (m) => isText(m.trip_id),
  vehicle_gone: (m) => isText(m.vehicle_id),
  geofence: (m) => isObject(m.geofence) && isText(m.geofence.id) && isObject(m.geofence.geometry),
  geofence_gone: (m) => isText(m.geofence_id),
  tick: (m) => isNumber(m.server_time),
  done: (m) => isText(m.client_id),
  error: (m) => isText(m.code),
};

/**
 * One frame as a message; what this page doesn't know, or can't use, is `unknown`.
 * @param {unknown} frame
 * @returns {FleetMessage}
 */
export function decode(frame) {
  /** @type {any} */
  let fields;
  try {
    fields = fromHub(String(frame));
  } catch {
    return { type: "unknown" };
  }
  const wellFormed = isObject(fields) && Object.hasOwn(WELL_FORMED, fields.type) ? WELL_FORMED[fields.type] : null;
  return wellFormed?.(fields) ? fields : { type: "unknown" };
}
