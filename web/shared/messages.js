/** The messages of both pages' sockets, and the one way from a frame to a typed message. */

import { fromHub } from "./text.js";

// --- parts of messages --------------------------------------------------------------------------------------

/**
 * @typedef {object} Place
 * @property {number} latitude
 * @property {number} longitude
 * @property {string} [name]
 *
 * @typedef {object} Vehicle
 * @property {string} vehicle_id
 * @property {string} [name]
 * @property {string} [kind]
 * @property {string} [plate]
 *
 * @typedef {"new" | "enroute_to_pickup" | "arrived_at_pickup" | "enroute_to_dropoff" | "arrived_at_stop" | "complete" | "canceled"} Status
 *
 * @typedef {object} Trip
 * @property {string} trip_id
 * @property {Status} status
 * @property {number} version
 * @property {Place} pickup
 * @property {Place} dropoff
 * @property {Place[]} [stops]
 * @property {Vehicle} [vehicle]
 * @property {number} [created_at]
 * @property {{type: string, coordinates: [number, number][]}} [route]
 *
 * @typedef {object} Position
 * @property {number} latitude
 * @property {number} longitude
 * @property {number} fix_time
 * @property {number} server_time
 * @property {number} [bearing]
 * @property {number} [speed]
 * @property {number} [accuracy]
 *
 * @typedef {object} Progress
 * @property {number} [remaining_distance]
 * @property {number} [eta]
 * @property {number} [eta_error]
 * @property {boolean} [off_route]
 *
 * @typedef {[longitude: number, latitude: number, fixTime: number]} TrackPoint
 * @typedef {[index: number, vehicleId: string]} Segment from this index on, the track's points are that vehicle's
 */

/**
 * @typedef {"available" | "on_trip" | "stopped" | "lost"} VehicleStatus
 *
 * What is known of a vehicle apart from its position.
 * @typedef {object} Description
 * @property {string} vehicle_id
 * @property {string} [name]
 * @property {string} [kind]
 * @property {string} [plate]
 * @property {VehicleStatus} status
 * @property {string} [trip_id]
 * @property {number} [clock_skew] seconds by which its device's clock is ahead (negative: behind), if it is wrong
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
 * @property {boolean} [late] it came from a backlog, and is not news
 *
 * @typedef {object} Geofence
 * @property {"Feature"} type
 * @property {string} id
 * @property {{type: "Polygon" | "MultiPolygon", coordinates: any[]}} geometry
 * @property {{name?: string, speed_limit?: number, dwell_after?: number, [other: string]: unknown}} properties
 */

// --- messages -------------------------------------------------------------------------------------------------------

/**
 * To both pages. `unknown` is a type that a page does not know, or cannot use.
 * @typedef {{type: "tick", server_time: number}} Tick
 * @typedef {{type: "unknown", offset?: number}} Unknown
 */

/**
 * A message that was posted while the page was not connected.
 * @typedef {{text: string, from: string, server_time: number}} PastMessage
 */

/**
 * To a passenger's page; what has an offset is numbered.
 * @typedef {{type: "snapshot", epoch: string, offset: number, server_time: number, trip: Trip, position?: Position, track: TrackPoint[], segments?: Segment[], progress?: Progress, since?: number, messages?: PastMessage[]}} Snapshot with `since`, the track only adds to the line
 * @typedef {{type: "resumed", epoch: string, offset: number}} Resumed
 * @typedef {{type: "position", offset: number} & Position} PositionUpdate
 * @typedef {{type: "trip", offset: number, trip: Trip}} TripUpdate
 * @typedef {{type: "progress", offset: number} & Progress} ProgressUpdate
 * @typedef {{type: "message", offset: number, text: string, from: string, server_time: number}} TextUpdate
 * @typedef {{type: "track_revised", offset: number, from: number, to: number, track: TrackPoint[], segments?: Segment[]}} TrackRevised
 * @typedef {{type: "skipped", from: number, to: number}} Skipped
 * @typedef {Snapshot | Resumed | PositionUpdate | TripUpdate | ProgressUpdate | TextUpdate | TrackRevised | Skipped | Tick | Unknown} PassengerMessage
 */

/**
 * To a dispatcher's page.
 * @typedef {{type: "fleet_snapshot", cells: string[], vehicles: SnapshotVehicle[]}} FleetSnapshot
 * @typedef {{type: "fleet", positions: Row[], left?: string[], vehicles?: Description[]}} FleetUpdate
 * @typedef {{type: "clusters", clusters: Cluster[]}} Clusters
 * @typedef {{type: "event"} & FleetEvent} EventMessage
 * @typedef {{type: "trip", trip: Trip}} TripMessage
 * @typedef {{type: "trip_gone", trip_id: string}} TripGone
 * @typedef {{type: "vehicle_gone", vehicle_id: string}} VehicleGone
 * @typedef {{type: "geofence", geofence: Geofence, simplified?: boolean}} GeofenceMessage
 * @typedef {{type: "geofence_gone", geofence_id: string}} GeofenceGone
 * @typedef {{type: "done", client_id: string, code?: string, detail?: string}} Done
 * @typedef {{type: "error", code: string, detail: string}} ErrorMessage
 * @typedef {FleetSnapshot | FleetUpdate | Clusters | EventMessage | TripMessage | TripGone | VehicleGone | GeofenceMessage | GeofenceGone | Tick | Done | ErrorMessage | Unknown} DispatcherMessage
 */

// --- from frames to messages ----------------------------------------------------------------------------------------

const isNumber = (/** @type {unknown} */ value) => typeof value === "number" && Number.isFinite(value);
const isText = (/** @type {unknown} */ value) => typeof value === "string";
const isObject = (/** @type {unknown} */ value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isPoint = (/** @type {any} */ value) => isObject(value) && isNumber(value.latitude) && isNumber(value.longitude);
const isPosition = (/** @type {any} */ value) => isPoint(value) && isNumber(value.fix_time) && isNumber(value.server_time);
const isTrip = (/** @type {any} */ value) => isObject(value) && isText(value.status) && isPoint(value.pickup) && isPoint(value.dropoff);
const isMessage = (/** @type {any} */ value) => isObject(value) && isText(value.text) && isNumber(value.server_time);
const isListOrAbsent = (/** @type {unknown} */ value) => value === undefined || Array.isArray(value);
const areSegments = (/** @type {any} */ value) => value === undefined || (Array.isArray(value) && value.every((segment) => Array.isArray(segment) && isNumber(segment[0])));

/**
 * For each known type of message, a check of the fields that the page needs.
 * @typedef {Record<string, (fields: any) => boolean>} Formats
 */

/** @type {Formats} */
const FOR_BOTH = {
  tick: (m) => isNumber(m.server_time),
};

/** @type {Formats} */
const FOR_PASSENGER = {
  ...FOR_BOTH,
  snapshot: (m) =>
    isText(m.epoch) &&
    isNumber(m.offset) &&
    isNumber(m.server_time) &&
    isTrip(m.trip) &&
    Array.isArray(m.track) &&
    areSegments(m.segments) &&
    (m.since === undefined || isNumber(m.since)) &&
    (m.messages === undefined || (Array.isArray(m.messages) && m.messages.every(isMessage))) &&
    (m.position === undefined || isPosition(m.position)),
  resumed: (m) => isText(m.epoch) && isNumber(m.offset),
  position: (m) => isNumber(m.offset) && isPosition(m),
  trip: (m) => isNumber(m.offset) && isTrip(m.trip),
  progress: (m) => isNumber(m.offset),
  message: (m) => isNumber(m.offset) && isText(m.text),
  track_revised: (m) => isNumber(m.offset) && isNumber(m.from) && isNumber(m.to) && Array.isArray(m.track) && areSegments(m.segments),
  skipped: (m) => isNumber(m.from) && isNumber(m.to),
};

/** @type {Formats} */
const FOR_DISPATCHER = {
  ...FOR_BOTH,
  fleet_snapshot: (m) => Array.isArray(m.cells) && Array.isArray(m.vehicles) && m.vehicles.every((/** @type {any} */ vehicle) => isPoint(vehicle) && isText(vehicle.vehicle_id)),
  fleet: (m) => isListOrAbsent(m.positions) && isListOrAbsent(m.left) && isListOrAbsent(m.vehicles),
  clusters: (m) => Array.isArray(m.clusters),
  event: (m) => isNumber(m.event_id) && isText(m.kind) && isText(m.vehicle_id) && isNumber(m.server_time),
  trip: (m) => isTrip(m.trip) && isText(m.trip.trip_id),
  trip_gone: (m) => isText(m.trip_id),
  vehicle_gone: (m) => isText(m.vehicle_id),
  geofence: (m) => isObject(m.geofence) && isText(m.geofence.id) && isObject(m.geofence.geometry),
  geofence_gone: (m) => isText(m.geofence_id),
  done: (m) => isText(m.client_id),
  error: (m) => isText(m.code),
};

/**
 * Decodes a frame. A message that the page does not know or can't use becomes `unknown`, and keeps its offset. A newer hub
 * numbers its new messages too, and a missing number would look like a gap.
 * @param {unknown} frame
 * @param {Formats} formats
 * @returns {any}
 */
function decode(frame, formats) {
  /** @type {any} */
  let fields;
  try {
    fields = fromHub(String(frame));
  } catch {
    return { type: "unknown" };
  }
  if (!isObject(fields)) return { type: "unknown" };
  const wellFormed = Object.hasOwn(formats, fields.type) ? formats[fields.type] : null;
  if (wellFormed?.(fields)) return fields;
  return isNumber(fields.offset) ? { type: "unknown", offset: fields.offset } : { type: "unknown" };
}

/** @param {unknown} frame @returns {PassengerMessage} */
export function decodeForPassenger(frame) {
  return decode(frame, FOR_PASSENGER);
}

/** @param {unknown} frame @returns {DispatcherMessage} */
export function decodeForDispatcher(frame) {
  return decode(frame, FOR_DISPATCHER);
}
