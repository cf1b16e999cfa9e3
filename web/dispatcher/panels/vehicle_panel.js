import { byId, write } from "../../shared/dom.js";
import { Search } from "./search.js";
import { VehicleList } from "./vehicle_list.js";

/** Milliseconds between two updates of the list. The map is updated with each frame. */
const LIST_REST = 400;

/**
 * @typedef {object} Parts
 * @property {import("../state/api.js").Api} api
 * @property {import("../state/live.js").Live} live
 * @property {import("../map/map.js").FleetMap} map
 * @property {(vehicle: import("./vehicle_list.js").ListedVehicle) => void} onSelect
 * @property {() => void} onShown called after the list was updated
 */

/** The vehicles in view: their list, the number of each status, and the search that filters list and map. */
export class VehiclePanel {
  search;
  list;

  #parts;
  #timer = 0;
  #ended = false;

  /** @param {Parts} parts */
  constructor(parts) {
    const { api, live, map, onSelect } = parts;
    this.#parts = parts;
    this.search = new Search(api, () => {
      map.vehicles.refresh();
      this.show();
    });
    this.list = new VehicleList(() => live.now(), onSelect);
  }

  refreshSoon() {
    this.#timer ||= setTimeout(() => {
      this.#timer = 0;
      this.show();
    }, LIST_REST);
  }

  show() {
    const { live, map, onShown } = this.#parts;
    if (!map.isBegun || this.#ended) return;
    const seen = this.#inView();
    const { clusters } = live.vehicles;
    const lines = this.search.lines(seen);
    this.list.show(lines);
    this.search.showCounts(countsOf(seen));
    if (!lines.length) lines.push({ heading: clusters ? "Zoom in to list them" : seen.length ? "No vehicle in view matches the search" : "No vehicle here" });
    this.list.show(lines);
    const many = clusters?.reduce((sum, [, , count]) => sum + count, 0) ?? 0;
    const listed = lines.filter((line) => "vehicle" in line && !line.away).length;
    const few = listed < seen.length ? `${listed} of ${seen.length} in view` : `${seen.length} in view`;
    write(byId("count"), clusters ? `${many.toLocaleString()} in view` : few);
    onShown();
  }

  /** Empties the list for good. */
  end() {
    this.#ended = true;
  }

  #inView() {
    const { live, map } = this.#parts;
    return [...live.vehicles.byId.values()].filter((vehicle) => map.shows(vehicle));
  }
}

/** @param {import("../state/roster.js").Listed[]} vehicles */
function countsOf(vehicles) {
  const counts = { available: 0, on_trip: 0, stopped: 0, lost: 0 };
  for (const { status } of vehicles) counts[status] += 1;
  return counts;
}
