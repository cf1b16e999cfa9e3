/** The hub's own address, from which this file was loaded. It may have a path, such as `https://host/track/`. */

const BASE = new URL("../../", import.meta.url);

/** A URL of the hub. @param {string} path without a slash at its beginning */
export function hubAddress(path) {
  return new URL(path, BASE).href;
}

/** The same for a socket. @param {string} path */
export function socketAddress(path) {
  return hubAddress(path).replace(/^http/, "ws");
}
