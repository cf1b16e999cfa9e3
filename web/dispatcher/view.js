/**
 * A read-only view of what the page shows, for tests and for pages that embed it.
 * @param {object} parts
 * @param {import("./state/live.js").Live} parts.live
 * @param {import("./map/map.js").FleetMap} parts.map
 * @param {import("./panels/vehicle_list.js").VehicleList} parts.list
 * @param {import("./panels/replay.js").Replay} parts.replay
 * @param {() => {ending: import("../shared/close_codes.js").Ending | null, selected: string | null}} parts.page
 */
export function viewOf({ live, map, list, replay, page }) {
  return Object.freeze({
    get state() {
      return { connection: live.connection.state, live: live.up, ending: page().ending, clusters: live.vehicles.clusters?.length ?? null, zoom: map.isBegun ? map.view.zoom : null };
    },
    get counts() {
      return { ...live.vehicles.counts };
    },
    get vehicles() {
      return [...live.vehicles.byId.values()].map(({ id, name, status, latitude, longitude, fixTime, tripId, clockSkew }) => ({ id, name, status, latitude, longitude, fixTime, tripId, clockSkew }));
    },
    get list() {
      return list.lines.map((line) => ("vehicle" in line ? line.vehicle.name : line.heading));
    },
    get selected() {
      return page().selected;
    },
    get events() {
      return live.log.events.map((event) => ({ ...event }));
    },
    get trips() {
      return live.trips.open.map(({ trip_id, status, vehicle }) => ({ trip_id, status, vehicle_id: vehicle?.vehicle_id ?? null }));
    },
    get geofences() {
      return [...live.geofences.byId.keys()];
    },
    get replay() {
      const { playing, time, from, to, rate } = replay.playback;
      return replay.open ? { vehicle: replay.vehicleId, positions: replay.length, playing, time, from, to, rate, shown: replay.shown } : null;
    },
    /** The pixel of a place on the screen, so that a test can click it. @param {number} latitude @param {number} longitude */
    pointOf(latitude, longitude) {
      const { x, y } = map.leaflet.latLngToContainerPoint([latitude, longitude]);
      const { left, top } = map.leaflet.getContainer().getBoundingClientRect();
      return { x: x + left, y: y + top };
    },
  });
}
