import { isolated } from "../../shared/format.js";
import { isOver } from "../state/trips.js";
import { TripCard } from "./trip_card.js";
import { VehicleCard } from "./vehicle_card.js";

/** @typedef {import("../../shared/messages.js").Trip} Trip */

/**
 * @typedef {object} Parts
 * @property {import("../state/api.js").Api} api
 * @property {import("../state/live.js").Live} live
 * @property {import("../map/map.js").FleetMap} map
 * @property {import("../map/trip_layer.js").TripLayer} tripLayer
 * @property {import("./card.js").Card} card
 * @property {import("../panels/vehicle_panel.js").VehiclePanel} vehiclePanel
 * @property {import("../panels/replay.js").Replay} replay
 * @property {() => boolean} isBusy whether something is being drawn or placed on the map, so that nothing else is selected
 */

/** The selected vehicle or trip: its card, what the map shows of it, and its line in the list. */
export class Selection {
  /** @type {string | null} */
  vehicleId = null;

  #parts;
  /** @type {VehicleCard | null} */
  #vehicleCard = null;
  /** @type {TripCard | null} */
  #tripCard = null;

  /** @param {Parts} parts */
  constructor(parts) {
    this.#parts = parts;
  }

  /** Whether the card shows a vehicle or a trip. */
  get isShown() {
    return this.#vehicleCard !== null || this.#tripCard !== null;
  }

  /** @param {string} id @param {{show?: boolean, focus?: boolean}} [how] `show` moves the map there */
  selectVehicle(id, { show = false, focus = false } = {}) {
    const { live, map, replay, vehiclePanel, isBusy } = this.#parts;
    if (isBusy()) return;
    if (replay.open) {
      if (replay.vehicleId !== id) this.#beginReplay(id);
      return;
    }
    const place = live.vehicles.byId.get(id) ?? vehiclePanel.search.placeOf(id);
    if (this.vehicleId === id && this.#vehicleCard) {
      if (show && place) map.reveal(place);
      return;
    }
    const opened = this.#openVehicle(id, focus);
    if (show && place) map.reveal(place);
    else if (show) opened.asked.then(() => this.vehicleId === id && opened.place && map.goTo(opened.place));
  }

  /** @param {Trip} trip */
  openTrip(trip) {
    const { api, live, map, tripLayer, card } = this.#parts;
    const opened = new TripCard(api, live, trip, (id) => this.selectVehicle(id, { show: true, focus: true }));
    const onClose = () => {
      this.#tripCard = null;
      tripLayer.clear();
    };
    card.show({ title: trip.vehicle ? `Trip · ${isolated(trip.vehicle.name || trip.vehicle.vehicle_id)}` : "Trip", body: opened.element, onClose }, { focus: true });
    this.#tripCard = opened;
    tripLayer.showTrip(trip);
    map.fit(tripLayer.boundsOf(trip));
  }

  /** Highlights a vehicle on the map and in the list; null: none. @param {string | null} id */
  highlight(id) {
    const { map, vehiclePanel } = this.#parts;
    this.vehicleId = id;
    map.vehicles.selected = id;
    map.vehicles.refresh();
    vehiclePanel.list.select(id);
  }

  updateVehicle() {
    this.#vehicleCard?.update();
  }

  /** Shows the trip again after trips have changed. */
  updateTrip() {
    const shown = this.#tripCard && this.#parts.live.trips.get(this.#tripCard.tripId);
    if (shown) this.#tripCard?.show(shown);
    this.#vehicleCard?.update();
  }

  /** The hub's answer to a message that was sent to a trip. @param {import("../../shared/messages.js").Done} done */
  done(done) {
    this.#vehicleCard?.done(done);
    this.#tripCard?.done(done);
  }

  /** @param {string} id @param {boolean} focus */
  #openVehicle(id, focus) {
    const { api, live, map, tripLayer, card } = this.#parts;
    const opened = new VehicleCard(api, live, id, {
      onShow: () => opened.place && map.goTo(opened.place),
      onReplay: () => this.#beginReplay(id),
      onName: (name) => this.vehicleId === id && card.rename(name),
      onTrip: (trip) => this.vehicleId === id && tripLayer.showTrip(trip && isOver(trip) ? null : trip),
    });
    const onClose = () => {
      opened.close();
      this.#vehicleCard = null;
      this.highlight(null);
      tripLayer.clear();
    };
    card.show({ title: live.vehicles.nameOf(id), body: opened.element, onClose }, { focus });
    this.#vehicleCard = opened;
    this.highlight(id);
    opened.update();
    return opened;
  }

  /** Begins a replay. The card is closed, because the replay uses the map. @param {string} id */
  #beginReplay(id) {
    const { card, live, replay } = this.#parts;
    card.close();
    this.highlight(id);
    replay.begin(id, live.vehicles.nameOf(id));
  }
}
