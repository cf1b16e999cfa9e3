import { byId, h, write } from "../../shared/dom.js";
import { farewell } from "../labels.js";

const HINT_STAYS = 6_000;

/** Notices over the map and above the list, and announcements for screen readers. */
export class Notices {
  #banner = byId("banner");
  #hint = byId("hint");
  #line = byId("line");
  #words = byId("line-words");
  #announcer = byId("announcer");
  /** @type {number | undefined} */
  #bannerTimer;
  /** @type {number | undefined} */
  #hintTimer;

  /** @param {boolean} live @param {string} words @param {number} [grace] milliseconds before the banner says it too */
  showLine(live, words, grace = 0) {
    this.#line.dataset.state = live ? "live" : "connecting";
    write(this.#words, words);
    clearTimeout(this.#bannerTimer);
    this.#bannerTimer = undefined;
    if (live) {
      this.#banner.hidden = true;
      return;
    }
    if (!this.#banner.hidden) write(this.#banner, words);
    this.#bannerTimer = setTimeout(() => {
      write(this.#banner, words);
      this.#banner.hidden = false;
    }, grace);
  }

  /** Shows what to do next on the map. @param {string} words an empty text hides the hint */
  hint(words) {
    clearTimeout(this.#hintTimer);
    write(this.#hint, words);
    this.#hint.hidden = words === "";
  }

  /** Shows what was just done. @param {string} words */
  tell(words) {
    this.hint(words);
    this.#hintTimer = setTimeout(() => this.hint(""), HINT_STAYS);
  }

  /** Announces a text to screen readers. @param {string} words */
  announce(words) {
    this.#announcer.textContent = words;
  }

  /** Shows why the page has ended. @param {import("../../shared/close_codes.js").Ending} why */
  showEnding(why) {
    const { title, text } = farewell(why);
    clearTimeout(this.#bannerTimer);
    this.#banner.hidden = true;
    this.#line.dataset.state = "ended";
    write(this.#words, title);
    document.title = title;
    const box = byId("ending");
    box.replaceChildren(h("div", {}, h("h2", {}, title), h("p", {}, text)));
    box.hidden = false;
    document.body.classList.add("ended");
  }
}
