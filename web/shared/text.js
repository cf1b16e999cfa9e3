/** Text from outside, made plain before it is shown. */

const DIRECTIONS = /[\u202a-\u202e\u2066-\u2069]/g;

/**
 * Without the signs that turn the direction of writing: with them a plate "21" is shown as "12".
 * @param {string} text
 */
export function plain(text) {
  return text.replace(DIRECTIONS, "");
}

/**
 * JSON from the hub with all its texts made plain, wherever they are shown later. The hub writes these signs as they are, and not as `\u202e`.
 * @param {string} text
 * @returns {any}
 */
export function fromHub(text) {
  return JSON.parse(plain(text));
}

/**
 * The beginning of a text that is longer than that many characters, with an ellipsis.
 * @param {string} text
 * @param {number} most
 */
export function shortened(text, most) {
  if (text.length <= most) return text;
  const characters = [...text];
  return characters.length > most ? `${characters.slice(0, most - 1).join("").trimEnd()}…` : text;
}
