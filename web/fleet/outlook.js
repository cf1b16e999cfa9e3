/** Where the dispatcher looked last, so that a page loaded again begins there. */

/** @typedef {[south: number, west: number, north: number, east: number]} Remembered */

const KEY = "tracking.fleet.view.";

/** @param {string} fleetId @returns {Remembered | null} */
export function recall(fleetId) {
  try {
    const view = JSON.parse(localStorage.getItem(KEY + fleetId) ?? "null");
    return Array.isArray(view) && view.length === 4 && view.every(Number.isFinite) ? /** @type {Remembered} */ (view) : null;
  } catch {
    return null;
  }
}

/** @param {string} fleetId @param {Remembered} view */
export function remember(fleetId, view) {
  try {
    localStorage.setItem(KEY + fleetId, JSON.stringify(view.map((degrees) => Number(degrees.toFixed(5)))));
  } catch {
    // A browser that keeps nothing begins with the whole fleet again.
  }
}

/**
 * A box around the places of most vehicles: one that was driven abroad must not make all others a dot.
 * @param {{latitude: number, longitude: number}[]} places
 * @returns {Remembered | null}
 */
export function boxAround(places) {
  if (!places.length) return null;
  const latitudes = inner(places.map(({ latitude }) => latitude));
  const longitudes = inner(places.map(({ longitude }) => longitude));
  const room = 0.005;
  return [latitudes[0] - room, longitudes[0] - room, latitudes[1] + room, longitudes[1] + room];
}

/** Without the outermost twentieth on either side. @param {number[]} numbers */
function inner(numbers) {
  const sorted = numbers.sort((one, other) => one - other);
  const cut = Math.floor(sorted.length / 20);
  return [sorted[cut], sorted[sorted.length - 1 - cut]];
}
