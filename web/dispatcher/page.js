import { byId, write } from "../shared/dom.js";
import { socketAddress } from "../shared/hub.js";
import { followPageLife, followReducedMotion } from "../shared/page_life.js";
import { Booking } from "./cards/booking.js";
import { Card } from "./cards/card.js";
import { GeofenceEditor } from "./cards/geofence_editor.js";
import { Selection } from "./cards/selection.js";
import { hearKeys } from "./keys.js";
import { boundsOf, GeofenceLayer } from "./map/geofence_layer.js";
import { InitialView } from "./map/initial_view.js";
import { FleetMap } from "./map/map.js";
import { TripLayer } from "./map/trip_layer.js";
import { EventList } from "./panels/event_list.js";
import { GeofenceList } from "./panels/geofence_list.js";
import { Notices } from "./panels/notices.js";
import { Replay } from "./panels/replay.js";
import { Tabs } from "./panels/tabs.js";
import { Thresholds } from "./panels/thresholds.js";
import { TripList } from "./panels/trip_list.js";
import { VehiclePanel } from "./panels/vehicle_panel.js";
import { Api } from "./state/api.js";
import { Live } from "./state/live.js";
import { viewOf } from "./view.js";

/** @typedef {import("../shared/close_codes.js").Ending} Ending */
/** @typedef {import("../shared/messages.js").FleetEvent} FleetEvent */
/** @typedef {import("../shared/messages.js").Trip} Trip */

const SAMPLE_OF_FLEET = 500;

/** The dispatcher's page. It connects the live fleet with the map, the side panels and the cards. */
export class DispatcherPage {
  #token;
  #fleetId = decodeURIComponent(location.pathname.split("/").filter(Boolean).at(-1) ?? "");
  /** @type {Ending | null} */
  #ending = null;
  #unseenEvents = 0;

  #api;
  #live;

  #map;
  #initialView;
  #geofenceLayer;

  #notices = new Notices();
  #tabs = new Tabs((panel) => panel === "events" && this.#seeEvents());
  #vehiclePanel;
  #tripList = new TripList((trip) => this.#openTrip(trip));
  #eventList;
  #geofenceList = new GeofenceList({ onShow: (geofence) => this.#map.fit(boundsOf(geofence)), onEdit: (geofence) => this.#editor.edit(geofence) });
  #replay;

  #card = new Card();
  #editor;
  #booking;
  #selection;

  /** @param {string} token @param {import("../shared/settings.js").Settings} settings */
  constructor(token, settings) {
    this.#token = token;
    const api = (this.#api = new Api(token, this.#fleetId));
    const live = (this.#live = this.#newLive());
    const map = (this.#map = this.#newMap(settings));
    this.#initialView = new InitialView(map, this.#fleetId);
    const tripLayer = new TripLayer(map);
    this.#geofenceLayer = new GeofenceLayer(map);
    const vehiclePanel = (this.#vehiclePanel = new VehiclePanel({
      api,
      live,
      map,
      onSelect: (vehicle) => this.#selection.selectVehicle(vehicle.id, { show: true, focus: true }),
      onShown: () => this.#selection.updateVehicle(),
    }));
    this.#eventList = new EventList(live, (event) => this.#showEvent(event));
    const replay = (this.#replay = new Replay(api, map, (open) => this.#replayed(open)));
    const [card, notices] = [this.#card, this.#notices];
    this.#editor = new GeofenceEditor({ api, live, map, card, notices, onHide: (id) => this.#hideGeofence(id) });
    this.#booking = new Booking({ api, map, tripLayer, card, notices, onCreated: (trip) => this.#openTrip(trip) });
    const isBusy = () => this.#editor.active || this.#booking.active;
    this.#selection = new Selection({ api, live, map, tripLayer, card, vehiclePanel, replay, isBusy });
    new Thresholds(api, (fleet) => this.#showName(fleet.name));
    map.vehicles.filter = (vehicle) => vehicle.id === this.#selection.vehicleId || vehiclePanel.search.passes(vehicle);
  }

  start() {
    this.#hearControls();
    followPageLife(this.#live.connection, () => this.#showConnection());
    setInterval(() => this.#vehiclePanel.refreshSoon(), 1_000);
    const page = () => ({ ending: this.#ending, selected: this.#selection.vehicleId });
    Object.defineProperty(window, "tracking", { value: viewOf({ live: this.#live, map: this.#map, list: this.#vehiclePanel.list, replay: this.#replay, page }) });
    if (!this.#token) {
      this.#end("incomplete");
      return;
    }
    this.#initialView.recall();
    this.#learn().finally(() => this.#live.connection.open());
  }

  /** @returns {Live} */
  #newLive() {
    return new Live({
      api: this.#api,
      token: this.#token,
      url: socketAddress(`v1/fleets/${encodeURIComponent(this.#fleetId)}/live`),
      view: () => (this.#map.isBegun ? this.#map.view : null),
      onChange: (part) => this.#changed(part),
      onEvents: (events, fresh) => this.#takeEvents(events, fresh),
      onGone: (id) => this.#removeVehicle(id),
      onDone: (done) => this.#selection.done(done),
      onState: (ending) => (ending ? this.#end(ending) : this.#showConnection()),
    });
  }

  /** @param {import("../shared/settings.js").Settings} settings @returns {FleetMap} */
  #newMap({ basemap }) {
    return new FleetMap(byId("map"), basemap, this.#live.vehicles, {
      onView: (bounds, zoom) => {
        this.#live.look(bounds, zoom);
        this.#initialView.remember();
      },
      onVehicle: (vehicle) => (vehicle ? this.#selection.selectVehicle(vehicle.id) : this.#card.close()),
    });
  }

  #hearControls() {
    followReducedMotion((reduced) => (this.#map.vehicles.reduced = reduced));
    hearKeys({ onSearch: () => this.#tabs.show("vehicles"), onList: () => this.#vehiclePanel.list.focus(), onEscape: () => this.#stepBack() });
    byId("new-trip").addEventListener("click", () => (this.#editor.stop(), this.#booking.begin()));
    byId("new-fence").addEventListener("click", () => (this.#booking.stop(), this.#editor.draw()));
    byId("grip").addEventListener("click", ({ currentTarget }) => {
      const high = document.body.classList.toggle("high");
      /** @type {Element} */ (currentTarget).setAttribute("aria-expanded", String(high));
    });
  }

  /** Closes the innermost open thing, for Escape; returns whether there was one. */
  #stepBack() {
    if (this.#editor.active) this.#editor.stop();
    else if (this.#booking.active) this.#booking.stop();
    else if (this.#card.content) this.#card.close();
    else if (this.#replay.open) this.#replay.close();
    else return false;
    if (this.#card.content && !this.#selection.isShown) this.#card.close();
    return true;
  }

  /** Loads the fleet's name and its vehicles' names. */
  async #learn() {
    const [fleet, vehicles] = await Promise.allSettled([this.#api.fleet(), this.#api.search("", SAMPLE_OF_FLEET)]);
    if (fleet.status === "fulfilled") this.#showName(fleet.value.name);
    const known = vehicles.status === "fulfilled" ? vehicles.value : [];
    for (const vehicle of known) this.#live.vehicles.learn(vehicle);
    this.#eventList.show();
    this.#initialView.begin(known.flatMap(({ latitude, longitude }) => (latitude === undefined || longitude === undefined ? [] : [{ latitude, longitude }])));
  }

  /** @param {string} name */
  #showName(name) {
    write(byId("fleet-name"), name || this.#fleetId);
    document.title = name || this.#fleetId;
  }

  // --- messages of the hub ----------------------------------------------------------------------------------------------

  /** @param {"vehicles" | "trips" | "geofences"} part */
  #changed(part) {
    if (part === "vehicles") {
      this.#map.vehicles.refresh();
      this.#initialView.find(this.#live.vehicles);
    }
    if (part === "trips") this.#showTrips();
    if (part === "geofences") {
      this.#showGeofences();
      this.#eventList.show();
    }
    this.#vehiclePanel.refreshSoon();
  }

  /** @param {string} id */
  #removeVehicle(id) {
    this.#vehiclePanel.search.forget(id);
    if (this.#selection.vehicleId === id) this.#card.close();
    if (this.#replay.open && this.#replay.vehicleId === id) this.#replay.close();
    this.#eventList.show();
  }

  #showConnection() {
    if (this.#ending) return;
    if (this.#live.up) this.#notices.showLine(true, "Live");
    else this.#notices.showLine(false, navigator.onLine ? "Reconnecting…" : "No network", this.#live.connection.grace);
  }

  /** @param {Ending} why */
  #end(why) {
    this.#ending = why;
    this.#vehiclePanel.end();
    this.#replay.close();
    this.#booking.stop();
    this.#card.close();
    this.#notices.showEnding(why);
  }

  // --- trips, geofences, events, the replay -----------------------------------------------------------------------------

  #showTrips() {
    const { open } = this.#live.trips;
    this.#tripList.show(open);
    this.#tabs.badge("trips", open.filter(({ vehicle }) => !vehicle).length);
    this.#selection.updateTrip();
  }

  /** @param {Trip} trip */
  #openTrip(trip) {
    this.#live.trips.put(trip);
    this.#showTrips();
    this.#selection.openTrip(trip);
  }

  #showGeofences() {
    this.#geofenceLayer.show(this.#live.geofences);
    this.#geofenceList.show(this.#live.geofences);
  }

  /** @param {string | null} id */
  #hideGeofence(id) {
    this.#geofenceLayer.hidden = id;
    this.#showGeofences();
  }

  /** @param {FleetEvent[]} events @param {boolean} fresh */
  #takeEvents(events, fresh) {
    this.#eventList.show();
    const news = fresh ? events.filter(({ late }) => !late) : [];
    if (!news.length) return;
    this.#notices.announce(this.#eventList.say(news[news.length - 1]));
    if (this.#tabs.shown === "events") return;
    this.#unseenEvents += news.length;
    this.#tabs.badge("events", this.#unseenEvents);
  }

  #seeEvents() {
    this.#unseenEvents = 0;
    this.#tabs.badge("events", 0);
    this.#eventList.show();
  }

  /** @param {FleetEvent} event */
  #showEvent({ vehicle_id: id, latitude, longitude }) {
    if (latitude !== undefined && longitude !== undefined) this.#map.flash({ latitude, longitude });
    this.#selection.selectVehicle(id, { show: latitude === undefined });
  }

  /** Shows live vehicles paler during a replay. @param {boolean} open */
  #replayed(open) {
    this.#map.vehicles.faded = open;
    if (open) this.#map.vehicles.refresh();
    else this.#selection.highlight(null);
  }
}
