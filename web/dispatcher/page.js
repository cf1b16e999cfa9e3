/** The dispatcher's page: reads the link, and joins the live fleet, the map, the list and the cards. */

import { isolated } from "../shared/format.js";
import { Api } from "./state/api.js";
import { Booking } from "./cards/booking.js";
import { Card } from "./cards/card.js";
import { byId, write } from "../shared/dom.js";
import { GeofenceEditor } from "./cards/geofence_editor.js";
import { GeofenceLayer } from "./map/geofence_layer.js";
import { Search } from "./panels/search.js";
import { EventList } from "./panels/event_list.js";
import { hearKeys } from "./keys.js";
import { VehicleList } from "./panels/vehicle_list.js";
import { Live } from "./state/live.js";
import { FleetMap } from "./map/map.js";
import { TripLayer } from "./map/trip_layer.js";
import { Notices } from "./panels/notices.js";
import { InitialView } from "./map/initial_view.js";
import { Replay } from "./panels/replay.js";
import { Tabs } from "./panels/tabs.js";
import { Thresholds } from "./panels/thresholds.js";
import { TripCard } from "./cards/trip_card.js";
import { TripList } from "./panels/trip_list.js";
import { isOver } from "./state/trips.js";
import { VehicleCard } from "./cards/vehicle_card.js";
import { viewOf } from "./view.js";
import { hubAddress, socketAddress } from "../shared/hub.js";
import { takeToken } from "../shared/link.js";

/** @typedef {import("../shared/close_codes.js").Ending} Ending */

const ONLINE_PATIENCE = 5_000;
/** The list is written anew at most this often; the map as often as the screen. */
const LIST_REST = 400;
const SAMPLE_OF_FLEET = 500;

const token = takeToken();

/** What the hub says of how the page is set up. @returns {Promise<{basemap?: import("../shared/basemap.js").BasemapSettings}>} */
async function readSettings() {
  try {
    const answer = await fetch(hubAddress("web-config.json"));
    return answer.ok ? await answer.json() : {};
  } catch {
    // A page without a basemap still shows the fleet.
    return {};
  }
}

/** @param {Awaited<ReturnType<typeof readSettings>>} settings */
function start(settings) {
  const fleetId = decodeURIComponent(location.pathname.split("/").filter(Boolean).at(-1) ?? "");
  const api = new Api(token, fleetId);
  const notices = new Notices();
  const card = new Card();
  /** @type {Ending | null} */
  let ending = null;
  /** @type {string | null} */
  let selected = null;
  /** @type {VehicleCard | null} */
  let vehicleCard = null;
  /** @type {TripCard | null} */
  let tripCard = null;
  let unseenEvents = 0;
  let listTimer = 0;

  const live = new Live({
    api,
    token,
    url: socketAddress(`v1/fleets/${encodeURIComponent(fleetId)}/live`),
    view: () => (map.isBegun ? map.view : null),
    onChange: (part) => {
      if (part === "vehicles") {
        map.vehicles.refresh();
        initialView.find(live.vehicles);
      }
      if (part === "trips") showTrips();
      if (part === "geofences") showGeofences();
      refreshList();
    },
    onEvents: takeEvents,
    onGone: (id) => {
      search.forget(id);
      if (selected === id) card.close();
      if (replay.open && replay.vehicleId === id) replay.close();
      eventList.show();
    },
    onDone: (done) => {
      vehicleCard?.done(done);
      tripCard?.done(done);
    },
    onState: (why) => (why ? end(why) : showLine()),
  });
  const map = new FleetMap(byId("map"), settings.basemap, live.vehicles, {
    onView: (bounds, zoom) => {
      live.look(bounds, zoom);
      initialView.remember();
    },
    onVehicle: (vehicle) => (vehicle ? select(vehicle.id) : card.close()),
  });
  const initialView = new InitialView(map, fleetId);
  const search = new Search(api, () => {
    map.vehicles.refresh();
    showList();
  });
  const list = new VehicleList(() => live.now(), (vehicle) => select(vehicle.id, { show: true, focus: true }));
  const tabs = new Tabs((panel) => panel === "events" && seeEvents());
  const tripLayer = new TripLayer(map);
  const geofenceLayer = new GeofenceLayer(map, { onZoom: (bounds) => map.fit(bounds), onEdit: (geofence) => editor.edit(geofence) });
  const editor = new GeofenceEditor({ api, live, map, card, geofenceLayer, notices });
  const booking = new Booking({ api, map, tripLayer, card, notices, onCreated: openTrip });
  const eventList = new EventList(live, showEvent);
  const tripList = new TripList(openTrip);
  const replay = new Replay(api, map, (open) => {
    map.vehicles.faded = open;
    if (open) map.vehicles.refresh();
    else highlight(null);
  });
  new Thresholds(api, (fleet) => showName(fleet.name));
  map.vehicles.filter = (vehicle) => vehicle.id === selected || search.passes(vehicle);

  // --- the list and the map, in step ----------------------------------------------------------------------------------

  function refreshList() {
    listTimer ||= setTimeout(() => {
      listTimer = 0;
      showList();
    }, LIST_REST);
  }

  function inView() {
    const seen = [];
    for (const vehicle of live.vehicles.byId.values()) if (map.shows(vehicle)) seen.push(vehicle);
    return seen;
  }

  function showList() {
    if (!map.isBegun || ending) return;
    const seen = inView();
    const { clusters } = live.vehicles;
    const lines = search.lines(seen);
    list.show(lines);
    search.showCounts(countsOf(seen));
    const many = clusters?.reduce((sum, [, , count]) => sum + count, 0) ?? 0;
    if (!lines.length) lines.push({ heading: clusters ? "Zoom in to list them" : seen.length ? "None of them fits what you look for" : "No vehicle here" });
    list.show(lines);
    const listed = lines.filter((line) => "vehicle" in line && !line.away).length;
    const few = listed < seen.length ? `${listed} of ${seen.length} in view` : `${seen.length} in view`;
    write(byId("count"), clusters ? `${many.toLocaleString()} in view` : few);
    vehicleCard?.update();
  }

  /** @param {string} id @param {{show?: boolean, focus?: boolean}} [how] */
  function select(id, { show = false, focus = false } = {}) {
    if (editor.active || booking.active) return;
    if (replay.open) {
      if (replay.vehicleId !== id) beginReplay(id);
      return;
    }
    const place = live.vehicles.byId.get(id) ?? search.placeOf(id);
    if (selected === id && vehicleCard) {
      if (show && place) map.reveal(place);
      return;
    }
    const opened = new VehicleCard(api, live, id, {
      onShow: () => opened.place && map.goTo(opened.place),
      onReplay: () => beginReplay(id),
      onName: (name) => selected === id && card.rename(name),
      onTrip: (trip) => selected === id && tripLayer.showTrip(trip && isOver(trip) ? null : trip),
    });
    const onClose = () => {
      opened.close();
      vehicleCard = null;
      highlight(null);
      tripLayer.clear();
    };
    card.show({ title: live.vehicles.nameOf(id), body: opened.element, onClose }, { focus });
    vehicleCard = opened;
    highlight(id);
    opened.update();
    if (show && place) map.reveal(place);
    else if (show) opened.asked.then(() => selected === id && opened.place && map.goTo(opened.place));
  }

  /** The map is the replay's then: no card over it. @param {string} id */
  function beginReplay(id) {
    card.close();
    highlight(id);
    replay.begin(id, live.vehicles.nameOf(id));
  }

  /** @param {string | null} id */
  function highlight(id) {
    selected = id;
    map.vehicles.selected = id;
    map.vehicles.refresh();
    list.select(id);
  }

  // --- trips, geofences, events ---------------------------------------------------------------------------------------

  function showTrips() {
    const { open } = live.trips;
    tripList.show(open);
    tabs.badge("trips", open.filter(({ vehicle }) => !vehicle).length);
    const shown = tripCard && live.trips.get(tripCard.tripId);
    if (shown) tripCard?.show(shown);
    vehicleCard?.update();
  }

  /** @param {import("../shared/messages.js").Trip} trip */
  function openTrip(trip) {
    live.trips.put(trip);
    showTrips();
    const box = new TripCard(api, live, trip, (id) => select(id, { show: true, focus: true }));
    const onClose = () => {
      tripCard = null;
      tripLayer.clear();
    };
    card.show({ title: trip.vehicle ? `Trip · ${isolated(trip.vehicle.name || trip.vehicle.vehicle_id)}` : "Trip", body: box.element, onClose }, { focus: true });
    tripCard = box;
    tripLayer.showTrip(trip);
    map.fit(tripLayer.boundsOf(trip));
  }

  function showGeofences() {
    geofenceLayer.show(live.geofences);
    eventList.show();
  }

  /** @param {import("../shared/messages.js").FleetEvent[]} events @param {boolean} fresh */
  function takeEvents(events, fresh) {
    eventList.show();
    const news = fresh ? events.filter(({ late }) => !late) : [];
    if (!news.length) return;
    notices.announce(eventList.say(news[news.length - 1]));
    if (tabs.shown === "events") return;
    unseenEvents += news.length;
    tabs.badge("events", unseenEvents);
  }

  function seeEvents() {
    unseenEvents = 0;
    tabs.badge("events", 0);
    eventList.show();
  }

  /** @param {import("../shared/messages.js").FleetEvent} event */
  function showEvent({ vehicle_id: id, latitude, longitude }) {
    if (latitude !== undefined && longitude !== undefined) map.flash({ latitude, longitude });
    select(id, { show: latitude === undefined });
  }

  // --- the line to the hub --------------------------------------------------------------------------------------------

  function showLine() {
    if (ending) return;
    if (live.up) notices.showLine(true, "Live");
    else notices.showLine(false, navigator.onLine ? "Reconnecting…" : "No network");
  }

  /** @param {Ending} why */
  function end(why) {
    ending = why;
    replay.close();
    booking.stop();
    card.close();
    notices.showEnding(why);
  }

  /** @param {string} name */
  function showName(name) {
    write(byId("fleet-name"), name || fleetId);
    document.title = name || fleetId;
  }

  /** Learns what the fleet is called, and which vehicles it has. */
  async function learn() {
    const [fleet, vehicles] = await Promise.allSettled([api.fleet(), api.search("", SAMPLE_OF_FLEET)]);
    if (fleet.status === "fulfilled") showName(fleet.value.name);
    const known = vehicles.status === "fulfilled" ? vehicles.value : [];
    for (const vehicle of known) live.vehicles.learn(vehicle);
    eventList.show();
    initialView.begin(known.flatMap(({ latitude, longitude }) => (latitude === undefined || longitude === undefined ? [] : [{ latitude, longitude }])));
  }

  // --- the page -------------------------------------------------------------------------------------------------------

  /** What Escape leaves: the innermost thing first. */
  function stepBack() {
    if (editor.active) editor.stop();
    else if (booking.active) booking.stop();
    else if (card.content) card.close();
    else if (replay.open) replay.close();
    else return false;
    if (card.content && !vehicleCard && !tripCard) card.close();
    return true;
  }

  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const heedCalm = () => (map.vehicles.reduced = calm.matches);
  heedCalm();
  calm.addEventListener("change", heedCalm);
  hearKeys({ onSearch: () => tabs.show("vehicles"), onList: () => list.focus(), onEscape: stepBack });
  byId("new-trip").addEventListener("click", () => (editor.stop(), booking.begin()));
  byId("new-fence").addEventListener("click", () => (booking.stop(), editor.draw()));
  byId("grip").addEventListener("click", ({ currentTarget }) => {
    const high = document.body.classList.toggle("high");
    /** @type {Element} */ (currentTarget).setAttribute("aria-expanded", String(high));
  });
  addEventListener("online", () => live.connection.wake(ONLINE_PATIENCE));
  addEventListener("offline", showLine);
  addEventListener("hashchange", () => location.reload());
  addEventListener("pagehide", () => live.connection.sleep());
  addEventListener("pageshow", () => live.connection.wake());
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && live.connection.wake());
  setInterval(refreshList, 1_000);

  Object.defineProperty(window, "tracking", { value: viewOf({ live, map, list, replay, page: () => ({ ending, selected }) }) });

  if (!token) {
    end("incomplete");
    return;
  }
  initialView.recall();
  learn().finally(() => live.connection.open());
}

/** @param {import("./state/roster.js").Listed[]} vehicles */
function countsOf(vehicles) {
  const counts = { available: 0, on_trip: 0, stopped: 0, lost: 0 };
  for (const { status } of vehicles) counts[status] += 1;
  return counts;
}

start(await readSettings());
