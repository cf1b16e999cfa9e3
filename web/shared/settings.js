import { hubAddress } from "./hub.js";

/**
 * The hub's settings for the pages.
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
    // A page without a basemap still shows the vehicles and their data.
    return {};
  }
}
