import { byId, h } from "../../shared/dom.js";

/**
 * The content of a card.
 * @typedef {object} Content
 * @property {string} title
 * @property {Node} body
 * @property {() => void} [onClose] called when it is closed or replaced
 */

/** The card over the map: one thing at a time, closed by Escape or its cross. */
export class Card {
  #element = byId("card");
  /** @type {Content | null} */
  #content = null;
  /** @type {Element | null} */
  #cameFrom = null;

  get content() {
    return this.#content;
  }

  /** @param {Content} content @param {{focus?: boolean}} [how] `focus` moves the keyboard there */
  show(content, { focus = false } = {}) {
    this.#leave();
    this.#content = content;
    const close = h("button", { type: "button", class: "plain close", "aria-label": "Close", onclick: () => this.close() }, "×");
    const title = h("h2", { id: "card-title", tabindex: "-1" }, content.title);
    this.#element.replaceChildren(h("div", { class: "card-head" }, title, close), content.body);
    this.#element.hidden = false;
    document.body.classList.add("with-card");
    this.#cameFrom ??= document.activeElement;
    if (focus) title.focus({ preventScroll: true });
  }

  /** @param {string} title */
  rename(title) {
    const element = byId("card-title");
    if (element && element.textContent !== title) element.textContent = title;
  }

  close() {
    if (!this.#content) return;
    const hadFocus = this.#element.contains(document.activeElement);
    const cameFrom = this.#cameFrom;
    this.#cameFrom = null;
    this.#element.hidden = true;
    document.body.classList.remove("with-card");
    this.#leave();
    this.#element.replaceChildren();
    if (hadFocus && cameFrom instanceof HTMLElement && cameFrom.isConnected) cameFrom.focus({ preventScroll: true });
  }

  #leave() {
    const content = this.#content;
    this.#content = null;
    content?.onClose?.();
  }
}
