/** Search keys, by the same rules as `search_key` in PostgreSQL, so that the page and the hub find the same. */

/** Accents and points, also of Hebrew and Arabic, and invisible characters: soft hyphens, joiners, directions, variants. */
const MARKS =
  /[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]/gu;
/** A stroke through a letter is like an accent, but Unicode does not decompose it. @type {Record<string, string>} */
const LETTERS = { ς: "σ", ı: "i", ł: "l", ø: "o", đ: "d", ħ: "h", ŧ: "t", ð: "d", ß: "ss", æ: "ae", œ: "oe", þ: "th" };
const LETTER = new RegExp(`[${Object.keys(LETTERS).join("")}]`, "gu");

/** A cache, because the vehicles in view are searched again at every move. @type {Map<string, string>} */
const known = new Map();
const MAX_KNOWN = 10_000;

/**
 * The search key of a text: without case, accents and marks.
 * @param {string} text
 */
export function searchKey(text) {
  let key = known.get(text);
  if (key === undefined) {
    key = text.normalize("NFKD").replace(MARKS, "").toLowerCase().replace(LETTER, (letter) => LETTERS[letter]);
    if (known.size >= MAX_KNOWN) known.clear();
    known.set(text, key);
  }
  return key;
}
