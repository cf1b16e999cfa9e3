import { byId } from "../shared/dom.js";

/**
 * The keys of the whole page: `/` searches, Escape goes back a step, and the down arrow goes from the search to the list.
 * @param {{onSearch: () => void, onList: () => void, onEscape: () => boolean}} events `onEscape` says whether there was a step to go back
 */
export function hearKeys({ onSearch, onList, onEscape }) {
  const search = /** @type {HTMLInputElement} */ (byId("search"));
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target instanceof HTMLElement && event.target.matches("input, select, textarea");
    if (event.key === "Escape" && event.target === search && search.value) {
      search.value = "";
      search.dispatchEvent(new Event("input"));
    } else if (event.key === "Escape") {
      if (!onEscape()) return;
    } else if (event.key === "/" && !typing) {
      onSearch();
      search.focus();
    } else if (event.target === search && (event.key === "ArrowDown" || event.key === "Enter")) {
      onList();
    } else {
      return;
    }
    event.preventDefault();
  });
}
