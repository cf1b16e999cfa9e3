/** The messages of a passenger's socket, and the way from a frame to one. */

import { fromHub } from "./text.js";

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
 * @typedef {[index: number, vehicleId: string]} Segment from this index of a track on its points are that vehicle's
 */

/**
 * @typedef {{type: "snapshot", epoch: string, offset: number, server_time: number, trip: Trip, position?: Position, track: TrackPoint[], segments?: Segment[], progress?: Progress}} Snapshot
 * @typedef {{type: "resumed", epoch: string, offset: number}} Resumed
 * @typedef {{type: "position", offset: number} & Position} PositionUpdate
 * @typedef {{type: "trip", offset: number, trip: Trip}} TripUpdate
 * @typedef {{type: "progress", offset: number} & Progress} ProgressUpdate
 * @typedef {{type: "message", offset: number, text: string, from: string, server_time: number}} TextUpdate
 * @typedef {{type: "track_revised", offset: number, from: number, to: number, track: TrackPoint[], segments?: Segment[]}} TrackRevised
 * @typedef {{type: "skipped", from: number, to: number}} Skipped
 * @typedef {{type: "tick", server_time: number}} Tick
 * @typedef {{type: "unknown", offset?: number}} Unknown
 * @typedef {Snapshot | Resumed | PositionUpdate | TripUpdate | ProgressUpdate | TextUpdate | TrackRevised | Skipped | Tick | Unknown} Message
 */

/** @typedef {Record<string, unknown>} Fields */

const isNumber = (/** @type {unknown} */ value) => typeof value === "number" && Number.isFinite(value);
const isObject = (/** @type {unknown} */ value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isPoint = (/** @type {any} */ value) => isObject(value) && isNumber(value.latitude) && isNumber(value.longitude);
const isPosition = (/** @type {any} */ value) => isPoint(value) && isNumber(value.fix_time) && isNumber(value.server_time);
const isTrip = (/** @type {any} */ value) => isObject(value) && typeof value.status === "string" && isPoint(value.pickup) && isPoint(value.dropoff);
const areSegments = (/** @type {any} */ value) => value === undefined || (Array.isArray(value) && value.every((segment) => Array.isArray(segment) && isNumber(segment[0])));

/** @type {Record<string, (fields: any) => boolean>} */
const WELL_FORMED = {
  snapshot: (m) =>
    typeof m.epoch === "string" &&
    isNumber(m.offset) &&
    isNumber(m.server_time) &&
    isTrip(m.trip) &&
    Array.isArray(m.track) &&
    areSegments(m.segments) &&
    (m.position === undefined || isPosition(m.position)),
  resumed: (m) => typeof m.epoch === "string" && isNumber(m.offset),
  position: (m) => isNumber(m.offset) && isPosition(m),
  trip: (m) => isNumber(m.offset) && isTrip(m.trip),
  progress: (m) => isNumber(m.offset),
  message: (m) => isNumber(m.offset) && typeof m.text === "string",
  track_revised: (m) => isNumber(m.offset) && isNumber(m.from) && isNumber(m.to) && Array.isArray(m.track) && areSegments(m.segments),
  skipped: (m) => isNumber(m.from) && isNumber(m.to),
  tick: (m) => isNumber(m.server_time),
};

/**
 * One frame as a message. A type this page doesn't know, or can't use, becomes `unknown` and keeps its offset: a newer hub
 * numbers its new messages too, and leaving their numbers out would look like a gap.
 * @param {unknown} frame
 * @returns {Message}
 */
export function decode(frame) {
  /** @type {any} */
  let fields;
  try {
    fields = fromHub(String(frame));
  } catch {
    return { type: "unknown" };
  }
  if (!isObject(fields)) return { type: "unknown" };
  const wellFormed = Object.hasOwn(WELL_FORMED, fields.type) ? WELL_FORMED[fields.type] : null;
  if (wellFormed?.(fields)) return fields;
  return isNumber(fields.offset) ? { type: "unknown", offset: fields.offset } : { type: "unknown" };
}
