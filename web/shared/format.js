/** Times and names as text, on both pages. */

import { plain } from "./text.js";

/**
 * How long ago, for "Updated …".
 * @param {number} milliseconds
 */
export function ago(milliseconds) {
  const seconds = Math.max(Math.round(milliseconds / 1_000), 0);
  if (seconds < 2) return "just now";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3_600)} h ago`;
  return `${Math.floor(seconds / 86_400)} d ago`;
}

/**
 * A time of day, as this device writes it.
 * @param {number} instant
 */
export function timeOfDay(instant) {
  return new Date(instant).toLocaleTimeString([], { hour: "numeric", minute: "2-digit" });
}

const RIGHT_TO_LEFT = /[\u0590-\u08ff\u200e\u200f\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;

/**
 * A name within other text: nothing in it turns the direction of what stands around it.
 * @param {string} name
 */
export function isolated(name) {
  const text = plain(name);
  return RIGHT_TO_LEFT.test(text) ? `\u2068${text}\u2069` : text;
}
