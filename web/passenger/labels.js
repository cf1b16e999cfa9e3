/** Texts for numbers and states on the passenger's page. */

import { isolated } from "../shared/format.js";
import { shortened } from "../shared/text.js";

/** @typedef {import("../shared/messages.js").Trip} Trip */

const MINUTE = 60_000;
const NAME_LIMIT = 40;

/**
 * A distance, with useful precision.
 * @param {number} metres
 */
export function length(metres) {
  if (metres < 950) return `${Math.max(Math.round(metres / 50) * 50, 50)} m`;
  return metres < 9_950 ? `${(metres / 1_000).toFixed(1)} km` : `${Math.round(metres / 1_000)} km`;
}

/**
 * The remaining time, as a range if it is uncertain.
 * @param {number} milliseconds
 * @param {number} [error]
 */
export function wait(milliseconds, error = 0) {
  const least = Math.round((milliseconds - error) / MINUTE);
  const most = Math.round((milliseconds + error) / MINUTE);
  if (most < 1) return "under a minute";
  if (most >= 60) return `${Math.floor(most / 60)} h ${most % 60} min`;
  return most - least >= 2 && least >= 1 ? `${least}–${most} min` : `${Math.max(Math.round(milliseconds / MINUTE), 1)} min`;
}

/**
 * The trip's status, as one line.
 * @param {Trip} trip
 */
export function status(trip) {
  switch (trip.status) {
    case "new":
      return trip.vehicle ? "Your ride is booked" : "Looking for a vehicle";
    case "enroute_to_pickup":
      return "On the way to you";
    case "arrived_at_pickup":
      return "Waiting at pickup";
    case "enroute_to_dropoff":
      return trip.dropoff.name ? `On the way to ${isolated(shortened(trip.dropoff.name, NAME_LIMIT))}` : "On the way";
    case "arrived_at_stop":
      return "Stopped on the way";
    case "complete":
      return "Trip finished";
    case "canceled":
      return "This trip was canceled";
    default:
      return "Trip under way";
  }
}

/**
 * What the status means for the passenger; empty if the status needs no explanation.
 * @param {Trip} trip
 */
export function explanation(trip) {
  switch (trip.status) {
    case "new":
      return "You will see it here as soon as it sets out.";
    case "arrived_at_pickup":
      return trip.pickup.name ? `Look for it at ${isolated(trip.pickup.name)}.` : "Look for it at the pickup point.";
    case "arrived_at_stop":
      return "It continues shortly.";
    default:
      return "";
  }
}

/** @type {Record<import("../shared/close_codes.js").Ending, {title: string, text: string}>} */
const ENDINGS = {
  over: { title: "Trip finished", text: "This trip is over. Thank you for riding with us." },
  revoked: { title: "This link has expired or was revoked", text: "Ask the person who sent it for a new one." },
  expired: { title: "This link has expired", text: "A link works for a limited time. Ask the person who sent it for a new one." },
  invalid: { title: "This link isn’t valid", text: "Check that it was copied whole, or ask the person who sent it for a new one." },
  incomplete: { title: "This link isn’t complete", text: "Its last part, after the # sign, is missing. Open the link again from the message it came in." },
  outdated: { title: "This page is out of date", text: "Load it again. If that doesn’t help, ask for a new link." },
};

/**
 * The final text, after which nothing more is shown.
 * @param {import("../shared/close_codes.js").Ending} ending
 * @param {Trip | null} trip the last known state
 */
export function farewell(ending, trip) {
  if (ending !== "over") return ENDINGS[ending];
  if (trip?.status === "canceled") return { title: "This trip was canceled", text: "The vehicle is no longer on its way. Nothing more will be shown here." };
  const where = trip?.status === "complete" ? trip.dropoff.name : "";
  return where ? { title: "Trip finished", text: `Arrived at ${isolated(where)}. Thank you for riding with us.` } : ENDINGS.over;
}

const SENDERS = new Map([
  ["driver", "From the driver"],
  ["dispatcher", "From dispatch"],
  ["service", "From dispatch"],
  ["passenger", "From a passenger"],
]);

/**
 * The name of a message's sender.
 * @param {string} from
 */
export function sender(from) {
  return SENDERS.get(from) ?? "Message";
}
