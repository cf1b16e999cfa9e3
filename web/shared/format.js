/** Times and names as text, on both pages. */

import { plain } from "./text.js";

/**
 * The text for an age, after "Updated …".
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
 * The time of day in the device's format.
 * @param {number} instant
 */
export function timeOfDay(instant) {
  return new Date(instant).toLocaleTimeString([], { hour: "numeric", minute: "2-digit" });
}

const RIGHT_TO_LEFT = /[\u0590-\u08ff\u200e\u200f\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;

/**
 * A name for use in a text, isolated so that its writing direction does not affect the text around it.
 * @param {string} name
 */
export function isolated(name) {
  const text = plain(name);
  return RIGHT_TO_LEFT.test(text) ? `\u2068${text}\u2069` : text;
}
