/** Cleans text from clients before it is shown. */

const DIRECTIONS = /[\u202a-\u202e\u2066-\u2069]/g;

/**
 * Removes characters that change the writing direction. They could show a plate "21" as "12".
 * @param {string} text
 */
export function plain(text) {
  return text.replace(DIRECTIONS, "");
}

/**
 * Decodes JSON of the hub and cleans all its texts. The hub writes these characters unescaped, not as `\u202e`.
 * @param {string} text
 * @returns {any}
 */
export function fromHub(text) {
  return JSON.parse(plain(text));
}

/**
 * A text cut to `most` characters, with an ellipsis if it is longer.
 * @param {string} text
 * @param {number} most
 */
export function shortened(text, most) {
  if (text.length <= most) return text;
  const characters = [...text];
  return characters.length > most ? `${characters.slice(0, most - 1).join("").trimEnd()}…` : text;
}
