/** The hub's own address, which may lie below a path of its host: `https://host/track/`. It is where this file comes from. */

const BASE = new URL("../../", import.meta.url);

/** An address of the hub. @param {string} path without a slash at its beginning */
export function hubAddress(path) {
  return new URL(path, BASE).href;
}

/** The same for a socket. @param {string} path */
export function socketAddress(path) {
  return hubAddress(path).replace(/^http/, "ws");
}
