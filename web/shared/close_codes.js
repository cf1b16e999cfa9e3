/**
 * Why a connection can't continue:
 * `over`: the trip has ended. `revoked`: the link was revoked or has expired. `expired`: the token has expired. `invalid`: the
 * link has no such trip. `incomplete`: the link lost its last part. `outdated`: the page and the hub have different versions.
 * @typedef {"over" | "revoked" | "expired" | "invalid" | "incomplete" | "outdated"} Ending
 */

/** @type {Record<number, Ending>} */
const ENDINGS = {
  4401: "incomplete",
  // The hub lets a client return with another token, but a share link has only one.
  4405: "expired",
  4500: "invalid",
  4501: "outdated",
  4502: "invalid",
  4503: "revoked",
  4506: "over",
};

/** The hub closed because it is overloaded. Reconnecting at once would add to the load. */
const BUSY = new Set([4013, 4014, 4015]);

/** The hub goes, or gives some of its clients to other hubs. */
const GOING_DOWN = 1012;

/**
 * The reason why a close code is final, or null if the page should reconnect.
 * @param {number} code
 * @returns {Ending | null}
 */
export function endingOf(code) {
  return ENDINGS[code] ?? (code >= 4500 && code <= 4999 ? "outdated" : null);
}

/**
 * Whether to wait longer than usual before reconnecting.
 * @param {number} code
 */
export function isBusy(code) {
  return BUSY.has(code);
}

/**
 * Whether the hub meant the page to go to another hub.
 * @param {number} code
 */
export function isPlanned(code) {
  return code === GOING_DOWN;
}
