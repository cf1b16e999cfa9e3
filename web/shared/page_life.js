/** After the network came back, a connection that was silent for longer than this is replaced. */
const ONLINE_PATIENCE = 5_000;

/**
 * Connects again when the network is back or the page is visible again, and closes the socket of a page that is left.
 * @param {import("./connection.js").Connection} connection
 * @param {() => void} onOffline
 */
export function followPageLife(connection, onOffline) {
  addEventListener("online", () => connection.wake(ONLINE_PATIENCE));
  addEventListener("offline", onOffline);
  // Another token in the address bar means another page.
  addEventListener("hashchange", () => location.reload());
  addEventListener("pagehide", () => connection.sleep());
  addEventListener("pageshow", () => connection.wake());
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && connection.wake());
}

/** Calls `onChange` now and at each change of the user's setting for reduced motion. @param {(reduced: boolean) => void} onChange */
export function followReducedMotion(onChange) {
  const query = matchMedia("(prefers-reduced-motion: reduce)");
  query.addEventListener("change", () => onChange(query.matches));
  onChange(query.matches);
}
