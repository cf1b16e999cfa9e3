import assert from "node:assert/strict";
import { test } from "node:test";

import { Live } from "../../dispatcher/state/live.js";
import { world } from "../world.js";

/** @typedef {import("../../shared/messages.js").FleetEvent} FleetEvent */

const event = (/** @type {number} */ id) => ({ event_id: id, kind: /** @type {const} */ ("enter"), vehicle_id: "v", server_time: id });
const settled = () => new Promise((resolve) => setImmediate(resolve));

/** The live state without a page. The test controls its socket and the hub's data. */
function page() {
  const around = world();
  /** @type {{events: FleetEvent[], newest?: FleetEvent[], asked: number[], away: boolean, told: number[], fresh: boolean[], gone: string[], endings: any[]}} */
  const hub = { events: [event(1), event(2)], asked: [], away: false, told: [], fresh: [], gone: [], endings: [] };
  const api = /** @type {any} */ ({
    events: async (/** @type {number} */ after) => {
      hub.asked.push(after);
      if (hub.away) throw new Error("away");
      return hub.newest ?? hub.events.filter(({ event_id: id }) => id > after).slice(0, 200);
    },
    news: async () => hub.events.filter(({ late }) => !late).slice(-200),
    geofences: async () => [],
    trips: async () => [],
  });
  const live = new Live({
    api,
    url: "ws://hub/v1/fleets/f/live",
    token: "t",
    view: () => ({ bounds: [9, 47, 10, 48], zoom: 12 }),
    onChange: () => undefined,
    onEvents: (events, fresh) => {
      hub.told.push(...events.map(({ event_id: id }) => id));
      hub.fresh.push(fresh);
    },
    onGone: (id) => hub.gone.push(id),
    onDone: () => undefined,
    onState: (ending) => hub.endings.push(ending),
    world: around.parts,
  });
  const say = (/** @type {object} */ message) => around.last().onmessage({ data: JSON.stringify(message) });
  const connect = async () => {
    around.last().onopen();
    say({ type: "fleet_snapshot", cells: [], vehicles: [] });
    await settled();
  };
  live.connection.open();
  return { live, hub, say, connect, ...around };
}

test("the viewport is told first, and again on every new line", async () => {
  const { connect, last, turn, sockets, live } = page();
  await connect();
  assert.deepEqual(last().sent.map((/** @type {string} */ text) => JSON.parse(text)), [{ type: "viewport", bounds: [9, 47, 10, 48], zoom: 12 }]);
  assert.ok(live.up);
  last().onclose({ code: 1012 });
  assert.ok(!live.up);
  turn(3_000);
  assert.equal(sockets.length, 2);
  await connect();
  assert.equal(last().sent.length, 1);
});

test("a socket alone is not the hub's word", () => {
  const { live, last, say } = page();
  last().onopen();
  assert.ok(!live.up);
  say({ type: "tick", server_time: 1 });
  assert.ok(live.up);
});

test("events missed in a break are asked for, each is told once, and in order", async () => {
  const { hub, connect, say, last, turn, live } = page();
  await connect();
  assert.deepEqual([hub.told, hub.fresh], [[1, 2], [false]]);
  say({ type: "event", ...event(3) });
  last().onclose({ code: 1006 });
  hub.events = Array.from({ length: 300 }, (_, index) => event(index + 1));
  turn(3_000);
  last().onopen();
  say({ type: "event", ...event(301) });
  await settled();
  await settled();
  assert.deepEqual(hub.asked, [0, 3, 203]);
  assert.deepEqual(live.log.events.map(({ event_id: id }) => id), Array.from({ length: 301 }, (_, index) => index + 1));
  assert.equal(new Set(hub.told).size, hub.told.length);
});

test("after a week's backlog a page that opens has the news all the same", async () => {
  const { hub, connect, live } = page();
  const backlog = Array.from({ length: 700 }, (_, index) => ({ ...event(10 + index), late: true, fix_time: 1 }));
  hub.events = [event(5_000), event(5_001)];
  hub.newest = backlog.slice(-200);
  await connect();
  assert.deepEqual(live.log.events.slice(-2).map(({ event_id: id }) => id), [5_000, 5_001]);
  assert.equal(live.log.events.length, 202);
});

test("an event that came before the missed ones were read doesn't hide them at the next break", async () => {
  const { hub, say, last, turn, connect } = page();
  await connect();
  last().onclose({ code: 1006 });
  turn(3_000);
  hub.away = true;
  last().onopen();
  say({ type: "event", ...event(9) });
  await settled();
  last().onclose({ code: 1006 });
  hub.away = false;
  turn(3_000);
  await connect();
  assert.deepEqual(hub.asked, [0, 2, 2]);
});

test("an expired or foreign token ends it", () => {
  for (const [code, ending] of /** @type {const} */ ([[4405, "expired"], [4502, "invalid"], [4503, "revoked"], [4500, "invalid"]])) {
    const { hub, last, turn, sockets } = page();
    last().onopen();
    last().onclose({ code });
    assert.equal(hub.endings.at(-1), ending);
    turn(100_000);
    assert.equal(sockets.length, 1);
  }
});

test("of a vehicle that was removed nothing is left", async () => {
  const { connect, say, live, hub } = page();
  await connect();
  const place = { latitude: 47.1, longitude: 9.5, fix_time: 1, status: "available" };
  say({ type: "fleet_snapshot", cells: [], vehicles: [{ vehicle_id: "v", name: "Van", ...place }, { vehicle_id: "w", name: "Other", ...place }] });
  say({ type: "event", ...event(3), vehicle_id: "w" });
  say({ type: "vehicle_gone", vehicle_id: "v" });
  assert.deepEqual([...live.vehicles.byId.keys()], ["w"]);
  assert.equal(live.vehicles.nameOf("v"), "v");
  assert.deepEqual(live.log.events.map(({ vehicle_id: id }) => id), ["w"]);
  assert.deepEqual(hub.gone, ["v"]);
});
