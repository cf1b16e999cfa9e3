import { h } from "../../shared/dom.js";
import { instantText } from "../labels.js";
import { reasonOf } from "../state/api.js";

const HOURS = [1, 4, 24, 24 * 7];

/** The share links of one trip: create, copy, list and revoke them. */
export class Shares {
  element = h("section", { class: "shares" });

  #api;
  #tripId;
  #now;
  #list = h("ul", { class: "share-list" });
  #problem = h("p", { class: "problem", role: "alert" });
  #hours = h("select", { "aria-label": "The link works for" }, ...HOURS.map((hours) => h("option", { value: hours, selected: hours === 24 }, hours < 48 ? `${hours} h` : `${hours / 24} days`)));
  /** Links made on this page. The hub shows a link only once. @type {Map<string, string>} */
  #links = new Map();

  /** @param {import("../state/api.js").Api} api @param {string} tripId @param {() => number} now */
  constructor(api, tripId, now) {
    this.#api = api;
    this.#tripId = tripId;
    this.#now = now;
    const make = h("button", { type: "button", class: "share-new", onclick: () => this.#make() }, "Make a link");
    this.element.append(h("h3", {}, "Share links"), h("p", { class: "line-of" }, make, h("label", {}, "for ", this.#hours)), this.#problem, this.#list);
    this.#load();
  }

  async #load() {
    await this.#try(async () => {
      const shares = await this.#api.shares(this.#tripId);
      const now = this.#now();
      const working = shares.filter((share) => share.revoked_at === undefined && share.expires_at > now);
      this.#list.replaceChildren(...working.map((share) => this.#entry(share)));
      if (!working.length) this.#list.append(h("li", { class: "none" }, "No one has a link to this trip."));
    });
  }

  async #make() {
    await this.#try(async () => {
      const share = await this.#api.share(this.#tripId, Number(this.#hours.value) * 3_600);
      this.#links.set(share.share_id, share.url);
      await this.#load();
      /** @type {HTMLElement | null} */ (this.#list.querySelector(`[data-share="${share.share_id}"] .copy`))?.focus();
    });
  }

  /** @param {import("../state/api.js").Share} share */
  #entry(share) {
    const link = this.#links.get(share.share_id);
    const until = h("span", { class: "until" }, `until ${instantText(share.expires_at, this.#now())}`);
    const revoke = h("button", { type: "button", class: "revoke danger", onclick: () => this.#revoke(share.share_id) }, "Revoke");
    if (!link) return h("li", { "data-share": share.share_id }, h("span", { class: "share-name" }, "Link given out"), until, revoke);
    const field = h("input", { class: "share-url", readonly: true, value: link, "aria-label": "Link to the trip", onfocus: () => field.select() });
    const copy = h("button", { type: "button", class: "copy", onclick: () => this.#copy(field, copy) }, "Copy");
    return h("li", { "data-share": share.share_id }, field, copy, until, revoke);
  }

  /** @param {HTMLInputElement} field @param {HTMLElement} button */
  async #copy(field, button) {
    try {
      await navigator.clipboard.writeText(field.value);
    } catch {
      // Over plain HTTP, scripts can't use the clipboard API. The older command still works.
      field.select();
      if (!document.execCommand("copy")) return;
    }
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 2_000);
  }

  /** @param {string} shareId */
  async #revoke(shareId) {
    await this.#try(async () => {
      await this.#api.revoke(shareId);
      this.#links.delete(shareId);
      await this.#load();
    });
  }

  /** @param {() => Promise<void>} work */
  async #try(work) {
    try {
      this.#problem.textContent = "";
      await work();
    } catch (error) {
      this.#problem.textContent = reasonOf(error);
    }
  }
}
