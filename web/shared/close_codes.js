/**
 * Why a connection can't go on, in the passenger's terms:
 * `over` the trip ended, `revoked` the link was taken back or its time is up, `expired` the token's time is up, `invalid` no
 * such trip for this link, `incomplete` the link lost its last part, `outdated` this page and the hub don't understand each other.
 * @typedef {"over" | "revoked" | "expired" | "invalid" | "incomplete" | "outdated"} Ending
 */

/** @type {Record<number, Ending>} */
const ENDINGS = {
  4401: "incomplete",
  // The hub lets a client come back with another token, but a share link has only the one.
  4405: "expired",
  4500: "invalid",
  4501: "outdated",
  4502: "invalid",
  4503: "revoked",
  4506: "over",
};

/** Closed because the hub has too much to do: knocking again at once would add to it. */
const BUSY = new Set([4013, 4014, 4015]);

/**
 * How a close code ends the page's work, or null where the page should come back by itself.
 * @param {number} code
 * @returns {Ending | null}
 */
export function endingOf(code) {
  return ENDINGS[code] ?? (code >= 4500 && code <= 4999 ? "outdated" : null);
}

/**
 * Whether to wait longer than usual before coming back.
 * @param {number} code
 */
export function isBusy(code) {
  return BUSY.has(code);
}
