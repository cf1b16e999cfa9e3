/** The token of the page's link. It is read from the fragment once, and then kept for this tab alone. */

/**
 * The browser objects that are used, so that a test can replace them.
 * @typedef {object} World
 * @property {Pick<Location, "hash" | "pathname" | "search">} location
 * @property {Pick<History, "state" | "replaceState">} history
 * @property {Pick<Storage, "getItem" | "setItem">} sessionStorage
 */

/**
 * Takes the token out of the address bar and the history. A reload finds it in the tab's storage. So does a tab that the phone
 * closed and restored. It is empty if the link has lost it.
 * @param {World} [world]
 */
export function takeToken(world = globalThis) {
  const { location, history } = world;
  const key = `token of ${location.pathname}`;
  const given = location.hash.slice(1);
  try {
    if (!given) return world.sessionStorage.getItem(key) ?? "";
    world.sessionStorage.setItem(key, given);
  } catch {
    // Without storage, the fragment must stay. A reload would have no token otherwise.
    return given;
  }
  history.replaceState(history.state, "", location.pathname + location.search);
  return given;
}

/**
 * Copies the whole link, so that the passenger can share it. The address bar has no token.
 * @param {string} token
 * @param {HTMLElement} button says whether it was done
 */
export async function copyLink(token, button) {
  const link = `${location.href.split("#")[0]}#${token}`;
  let copied = true;
  try {
    await navigator.clipboard.writeText(link);
  } catch {
    // Over plain HTTP, scripts can't use the clipboard API. The older command still works.
    const field = document.createElement("input");
    field.value = link;
    // Otherwise a phone would show its keyboard, and the panel would grow for a moment.
    field.readOnly = true;
    field.style.position = "fixed";
    button.after(field);
    field.select();
    copied = document.execCommand("copy");
    field.remove();
    button.focus({ preventScroll: true });
  }
  button.textContent = copied ? "Copied" : "Could not copy";
  setTimeout(() => (button.textContent = "Copy link"), 2_000);
}
