import { byId } from "../../shared/dom.js";

/** The tabs of the side: one panel at a time, arrow keys between them. */
export class Tabs {
  #tabs = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("#tabs [role=tab]")]);
  #onShow;

  /** @param {(panel: string) => void} onShow */
  constructor(onShow) {
    this.#onShow = onShow;
    for (const tab of this.#tabs) {
      tab.addEventListener("click", () => this.show(panelOf(tab)));
      tab.addEventListener("keydown", (event) => this.#pressed(event, tab));
    }
  }

  get shown() {
    return panelOf(this.#tabs.find((tab) => tab.getAttribute("aria-selected") === "true") ?? this.#tabs[0]);
  }

  /** @param {string} panel */
  show(panel) {
    for (const tab of this.#tabs) {
      const shown = panelOf(tab) === panel;
      tab.setAttribute("aria-selected", String(shown));
      tab.tabIndex = shown ? 0 : -1;
      byId(panelOf(tab)).hidden = !shown;
    }
    this.#onShow(panel);
  }

  /** Shows the number of waiting things on a tab. @param {string} panel @param {number} count */
  badge(panel, count) {
    const badge = /** @type {HTMLElement | null} */ (document.querySelector(`#tab-${panel} .badge`));
    if (!badge) return;
    badge.hidden = count === 0;
    badge.textContent = count > 99 ? "99+" : String(count);
  }

  /** @param {KeyboardEvent} event @param {HTMLElement} tab */
  #pressed(event, tab) {
    const way = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (!way) return;
    const next = this.#tabs[(this.#tabs.indexOf(tab) + way + this.#tabs.length) % this.#tabs.length];
    this.show(panelOf(next));
    next.focus();
    event.preventDefault();
  }
}

/** @param {HTMLElement} tab */
const panelOf = (tab) => tab.getAttribute("aria-controls") ?? "";
