import { h } from "./dom.js";
import { reasonOf } from "./api.js";
import { distanceText } from "./words.js";

const HOW_MANY = 5;

/** The nearest vehicles that are free, to give a trip to one of them. */
export class Nearest {
  element = h("section", { class: "nearest" });

  #list = h("ul", { class: "nearest-list", "aria-label": "Nearest available vehicles" }, h("li", { class: "none" }, "Looking…"));
  #onChoose;

  /**
   * @param {import("./api.js").Api} api
   * @param {{latitude: number, longitude: number}} place
   * @param {(vehicleId: string) => void} onChoose
   */
  constructor(api, place, onChoose) {
    this.#onChoose = onChoose;
    this.element.append(h("h3", {}, "Nearest available vehicles"), this.#list);
    this.#load(api, place);
  }

  /** @param {import("./api.js").Api} api @param {{latitude: number, longitude: number}} place */
  async #load(api, place) {
    try {
      const vehicles = await api.nearest(place, HOW_MANY);
      this.#list.replaceChildren(...vehicles.map((vehicle) => this.#entry(vehicle)));
      if (!vehicles.length) this.#list.append(h("li", { class: "none" }, "None is free now."));
    } catch (error) {
      this.#list.replaceChildren(h("li", { class: "problem", role: "alert" }, reasonOf(error)));
    }
  }

  /** @param {import("./api.js").NearVehicle} vehicle */
  #entry({ vehicle_id: id, name, plate, distance }) {
    return h(
      "li",
      {},
      h("button", { type: "button", "data-vehicle": id, onclick: () => this.#onChoose(id) }, h("span", { class: "row-name" }, name || id), h("span", { class: "row-plate" }, plate), h("span", { class: "away-by" }, distanceText(distance))),
    );
  }
}
