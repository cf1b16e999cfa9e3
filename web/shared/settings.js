import { hubAddress } from "./hub.js";

/**
 * How the hub has set the pages up.
 * @typedef {object} Settings
 * @property {import("./basemap.js").BasemapSettings} [basemap]
 * @property {number} [stale_after] seconds after which a position is no longer fresh
 */

/** @returns {Promise<Settings>} */
export async function readSettings() {
  try {
    const answer = await fetch(hubAddress("web-config.json"));
    return answer.ok ? await answer.json() : {};
  } catch {
    // A page without a basemap still shows where the vehicles are, and what is known of them.
    return {};
  }
}
