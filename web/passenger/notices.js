import { byId } from "../shared/dom.js";
import { timeOfDay } from "../shared/format.js";
import { sender } from "./labels.js";

const MAX_MESSAGES = 3;

/** Notices over the map: a banner while the connection is down, and cards with messages. */
export class Notices {
  #banner = byId("banner");
  #messages = byId("messages");
  /** @type {number | undefined} */
  #timer;
  #words = "";

  /** Hides the banner, when the connection is up. */
  showLive() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#banner.hidden = true;
  }

  /**
   * Shows the banner, when the connection is down. Another call only updates its text.
   * @param {string} words
   * @param {number} grace milliseconds, from the first call on, before it is shown
   */
  showDown(words, grace) {
    this.#words = words;
    if (!this.#banner.hidden) this.#banner.textContent = words;
    this.#timer ??= setTimeout(() => {
      this.#banner.textContent = this.#words;
      this.#banner.hidden = false;
    }, grace);
  }

  /**
   * @param {{text: string, from: string, server_time: number}} message
   */
  addMessage({ text, from, server_time }) {
    const card = document.createElement("article");
    card.className = "message";
    const head = document.createElement("p");
    head.className = "message-head";
    head.textContent = `${sender(from)} · ${timeOfDay(server_time)}`;
    const body = document.createElement("p");
    body.className = "message-text";
    body.textContent = text;
    const close = document.createElement("button");
    close.type = "button";
    close.setAttribute("aria-label", "Dismiss message");
    close.textContent = "×";
    close.addEventListener("click", () => card.remove());
    card.append(head, body, close);
    this.#messages.append(card);
    while (this.#messages.children.length > MAX_MESSAGES) this.#messages.firstElementChild?.remove();
  }
}
