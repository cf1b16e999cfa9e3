import { h } from "../../shared/dom.js";
import { distanceText } from "../labels.js";
import { reasonOf } from "../state/api.js";

const HOW_MANY = 5;
/** Milliseconds between two requests. Vehicles move and become free. */
const ASK_EVERY = 3_000;

/** The nearest free vehicles, to assign a trip to one of them. */
export class Nearest {
  element = h("section", { class: "nearest" });

  #list = h("ul", { class: "nearest-list", "aria-label": "Nearest available vehicles" }, h("li", { class: "none" }, "Looking…"));
  #onChoose;
  #shown = "";

  /**
   * @param {import("../state/api.js").Api} api
   * @param {{latitude: number, longitude: number}} place
   * @param {(vehicleId: string) => void} onChoose
   */
  constructor(api, place, onChoose) {
    this.#onChoose = onChoose;
    this.element.append(h("h3", {}, "Nearest available vehicles"), this.#list);
    this.#load(api, place);
  }

  /** @param {import("../state/api.js").Api} api @param {{latitude: number, longitude: number}} place */
  async #load(api, place) {
    try {
      this.#show(await api.nearest(place, HOW_MANY));
    } catch (error) {
      this.#shown = "";
      this.#list.replaceChildren(h("li", { class: "problem", role: "alert" }, reasonOf(error)));
    }
    setTimeout(() => this.element.isConnected && this.#load(api, place), ASK_EVERY);
  }

  /** @param {import("../state/api.js").NearVehicle[]} vehicles */
  #show(vehicles) {
    const shown = JSON.stringify(vehicles.map(({ vehicle_id: id, name, plate, distance }) => [id, name, plate, distanceText(distance)]));
    if (shown === this.#shown) return;
    this.#shown = shown;
    const focused = document.activeElement?.getAttribute("data-vehicle");
    this.#list.replaceChildren(...vehicles.map((vehicle) => this.#entry(vehicle)));
    if (!vehicles.length) this.#list.append(h("li", { class: "none" }, "None is free now."));
    if (focused) /** @type {HTMLElement | null} */ (this.#list.querySelector(`[data-vehicle="${CSS.escape(focused)}"]`))?.focus();
  }

  /** @param {import("../state/api.js").NearVehicle} vehicle */
  #entry({ vehicle_id: id, name, plate, distance }) {
    return h(
      "li",
      {},
      h("button", { type: "button", "data-vehicle": id, onclick: () => this.#onChoose(id) }, h("span", { class: "row-name" }, name || id), h("span", { class: "row-plate" }, plate), h("span", { class: "away-by" }, distanceText(distance))),
    );
  }
}
