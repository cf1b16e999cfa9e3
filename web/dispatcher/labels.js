/** Texts for states, events and numbers on the dispatcher's page. */

import { isolated, timeOfDay } from "../shared/format.js";

/** @typedef {import("../shared/messages.js").FleetEvent} FleetEvent */
/** @typedef {import("../shared/messages.js").EventKind} EventKind */
/** @typedef {import("../shared/messages.js").VehicleStatus} VehicleStatus */
/** @typedef {import("../shared/messages.js").Trip} Trip */

/** @type {Record<VehicleStatus, string>} */
export const VEHICLE_STATUS = { available: "Available", on_trip: "On trip", stopped: "Stopped", lost: "Signal lost" };

/** @type {Record<Trip["status"], string>} */
export const TRIP_STATUS = {
  new: "Booked",
  enroute_to_pickup: "On the way to pickup",
  arrived_at_pickup: "At pickup",
  enroute_to_dropoff: "On the way to drop-off",
  arrived_at_stop: "At a stop",
  complete: "Finished",
  canceled: "Canceled",
};

/** @type {Record<EventKind, string>} */
export const EVENT_KINDS = {
  enter: "Entered a geofence",
  exit: "Left a geofence",
  dwell: "Stays in a geofence",
  speeding: "Speeding",
  off_route: "Off its route",
  idle: "Stands still",
  signal_lost: "Signal lost",
  signal_back: "Signal is back",
};

/**
 * The text of an event, without the vehicle's name.
 * @param {FleetEvent} event
 * @param {string} fence the geofence's name, if there is one
 */
export function eventText({ kind, speed, limit }, fence) {
  fence = isolated(fence);
  switch (kind) {
    case "enter":
      return `entered ${fence || "a geofence"}`;
    case "exit":
      return `left ${fence || "a geofence"}`;
    case "dwell":
      return `stays in ${fence || "a geofence"}`;
    case "speeding": {
      const fast = speed === undefined ? "is speeding" : `drives ${kilometresPerHour(speed)}`;
      const allowed = limit === undefined ? "" : `, ${kilometresPerHour(limit)} allowed`;
      return `${fast}${allowed}${fence ? ` in ${fence}` : ""}`;
    }
    case "off_route":
      return "is off its route";
    case "idle":
      return "stands still";
    case "signal_lost":
      return "has stopped reporting";
    case "signal_back":
      return "reports again";
    default:
      return String(kind).replaceAll("_", " ");
  }
}

/** @param {number} metresPerSecond */
export function kilometresPerHour(metresPerSecond) {
  return `${Math.round(metresPerSecond * 3.6)} km/h`;
}

/** A distance, short enough to compare. @param {number} metres */
export function distanceText(metres) {
  return metres < 1_000 ? `${Math.round(metres / 10) * 10} m` : `${(metres / 1_000).toFixed(metres < 10_000 ? 1 : 0)} km`;
}

/** @param {number} seconds */
export function durationText(seconds) {
  const minutes = Math.round(seconds / 60);
  if (seconds < 60) return `${Math.round(seconds)} s`;
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** The text for a device's wrong clock. @param {number} skew seconds that it is ahead (negative: behind) @returns {string} empty if it is right */
export function clockText(skew) {
  if (!skew) return "";
  const seconds = Math.abs(skew);
  const span = seconds < 2 * 86_400 ? durationText(seconds).replace(" h 0 min", " h") : `${Math.round(seconds / 86_400)} days`;
  return `Clock ${span} ${skew > 0 ? "ahead" : "behind"}`;
}

/** The time of day of an instant, with the date if it isn't today. @param {number} instant @param {number} now */
export function instantText(instant, now) {
  const date = new Date(instant);
  const day = date.toDateString() === new Date(now).toDateString() ? "" : `${date.toLocaleDateString([], { day: "numeric", month: "short" })}, `;
  return day + timeOfDay(instant);
}

/** The name of a place, or its coordinates if it has none. @param {import("../shared/messages.js").Place} place */
export function placeText({ name, latitude, longitude }) {
  return name || `${latitude.toFixed(4)}, ${longitude.toFixed(4)}`;
}

/** @type {Record<import("../shared/close_codes.js").Ending, {title: string, text: string}>} */
const ENDINGS = {
  expired: { title: "Your access has run out", text: "The link worked for a limited time. Ask the operator of this service for a new one." },
  revoked: { title: "Your access was revoked", text: "Ask the operator of this service for a new link." },
  invalid: { title: "This link doesn’t open this fleet", text: "It is another fleet’s, or the fleet no longer exists. Check that the link was copied whole." },
  incomplete: { title: "This link isn’t complete", text: "Its last part, after the # sign, is missing. Open it again from the message it came in." },
  outdated: { title: "This page is out of date", text: "Load it again. If that doesn’t help, ask the operator of this service." },
  over: { title: "This fleet is closed", text: "Nothing more will be shown here." },
};

/** The text that says why the page has ended. @param {import("../shared/close_codes.js").Ending} ending */
export function farewell(ending) {
  return ENDINGS[ending];
}
