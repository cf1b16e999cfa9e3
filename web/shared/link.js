/** The token of the page's link, which is a key: read from the fragment once, and then kept for this tab alone. */

/**
 * The world outside, for tests.
 * @typedef {object} World
 * @property {Pick<Location, "hash" | "pathname" | "search">} location
 * @property {Pick<History, "state" | "replaceState">} history
 * @property {Pick<Storage, "getItem" | "setItem">} sessionStorage
 */

/**
 * Takes the token out of the address bar and the history. A reload finds it in the tab's own storage, and so does a tab that the
 * phone killed and brought back. Empty where the link has lost it.
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
    // A browser that lets the page keep nothing: without the fragment, a reload would have nothing to show.
    return given;
  }
  history.replaceState(history.state, "", location.pathname + location.search);
  return given;
}

/**
 * Copies the whole link, for whom the passenger lets watch as well: what stands in the address bar opens nothing.
 * @param {string} token
 * @param {HTMLElement} button says whether it was done
 */
export async function copyLink(token, button) {
  const link = `${location.href.split("#")[0]}#${token}`;
  let copied = true;
  try {
    await navigator.clipboard.writeText(link);
  } catch {
    // Over plain HTTP there is no clipboard for scripts, but still the old way.
    const field = document.createElement("input");
    field.value = link;
    // Else a phone would show its keyboard, and the panel would grow for a moment.
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
