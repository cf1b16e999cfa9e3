import assert from "node:assert/strict";
import { test } from "node:test";

import { Feed } from "../../passenger/feed.js";
import { decodeForPassenger } from "../../shared/messages.js";
import { seeded } from "../random.js";

const TRIP = { trip_id: "t", status: "enroute_to_pickup", version: 1, pickup: { latitude: 47, longitude: 9 }, dropoff: { latitude: 48, longitude: 9 } };
const position = (/** @type {number} */ offset, fix_time = offset * 1_000) => ({ type: "position", offset, latitude: 47.1, longitude: 9.5, fix_time, server_time: fix_time + 50 });
const snapshot = (offset = 0, epoch = "e", more = {}) => ({ type: "snapshot", epoch, offset, server_time: 1, trip: TRIP, track: [], ...more });

/** @param {any[]} messages @param {Feed} [feed] */
function feedOf(messages, feed = new Feed()) {
  const outcomes = messages.map((message) => feed.receive(decodeForPassenger(JSON.stringify(message)), 0));
  return { feed, outcomes };
}

test("a snapshot sets everything, also in the middle of a life", () => {
  const { feed } = feedOf([snapshot(4, "e", { position: position(4) }), position(5), snapshot(9, "f", { track: [[9, 47, 1]] })]);
  assert.deepEqual(feed.cursor, { epoch: "f", offset: 9 });
  assert.equal(feed.position, null);
  assert.deepEqual(feed.track.points, [[9, 47, 1]]);
});

test("the snapshot's position ends the line though it isn't committed yet", () => {
  const { feed } = feedOf([snapshot(4, "e", { track: [[9, 47, 1]], position: position(4) })]);
  assert.deepEqual(feed.track.points.map(([, , time]) => time), [1, 4_000]);
});

test("a repeat is ignored, a gap is told, and the state stays as it was", () => {
  const { feed, outcomes } = feedOf([snapshot(0), position(1), position(1), position(3)]);
  assert.deepEqual(outcomes, ["applied", "applied", "ignored", "gap"]);
  assert.equal(feed.cursor?.offset, 1);
  assert.equal(feed.track.points.length, 1);
});

test("what was skipped is no gap", () => {
  const { feed, outcomes } = feedOf([snapshot(0), position(1), { type: "skipped", from: 2, to: 4 }, position(5)]);
  assert.deepEqual(outcomes, ["applied", "applied", "ignored", "applied"]);
  assert.equal(feed.cursor?.offset, 5);
});

test("skipping from beyond the next offset is a gap", () => {
  assert.deepEqual(feedOf([snapshot(0), { type: "skipped", from: 2, to: 4 }]).outcomes, ["applied", "gap"]);
});

test("an unknown type with an offset takes its number along", () => {
  const { feed, outcomes } = feedOf([snapshot(0), { type: "weather", offset: 1 }, { type: "weather" }, position(2)]);
  assert.deepEqual(outcomes, ["applied", "ignored", "ignored", "applied"]);
  assert.equal(feed.cursor?.offset, 2);
});

test("a known type that can't be used takes its number along too", () => {
  const { outcomes } = feedOf([snapshot(0), { type: "position", offset: 1, latitude: "47" }, position(2)]);
  assert.deepEqual(outcomes, ["applied", "ignored", "applied"]);
});

test("nothing counts before the connection has said from where it goes on", () => {
  const { feed } = feedOf([snapshot(0), position(1)]);
  feed.begin();
  assert.deepEqual(feedOf([position(2)], feed).outcomes, ["gap"]);
  assert.deepEqual(feedOf([{ type: "resumed", epoch: "e", offset: 1 }, position(2)], feed).outcomes, ["applied", "applied"]);
});

test("resumed elsewhere than asked is a gap", () => {
  const { feed } = feedOf([snapshot(0), position(1)]);
  feed.begin();
  assert.deepEqual(feedOf([{ type: "resumed", epoch: "e", offset: 0 }], feed).outcomes, ["gap"]);
  assert.deepEqual(feedOf([{ type: "resumed", epoch: "x", offset: 1 }], feed).outcomes, ["gap"]);
  feed.forget();
  assert.equal(feed.cursor, null);
  assert.deepEqual(feedOf([{ type: "resumed", epoch: "e", offset: 1 }], feed).outcomes, ["gap"]);
});

test("a position older than the newest enters the line and not the marker", () => {
  const { feed, outcomes } = feedOf([snapshot(0), position(1, 5_000), position(2, 3_000)]);
  assert.equal(outcomes[2], "ignored");
  assert.equal(feed.position?.fix_time, 5_000);
  assert.deepEqual(feed.track.points.map(([, , time]) => time), [3_000, 5_000]);
});

test("another vehicle takes over: where the first one was is not where it is, though its clock runs ahead", () => {
  const of = (/** @type {string} */ vehicle_id) => ({ ...TRIP, vehicle: { vehicle_id } });
  const { feed } = feedOf([snapshot(0, "e", { trip: of("first") }), position(1, 60_000), { type: "trip", offset: 2, trip: of("second") }]);
  assert.equal(feed.position, null);
  const { outcomes } = feedOf([position(3, 11_000), { type: "track_revised", offset: 4, from: 9_000, to: 9_000, track: [[9, 47, 9_000]], segments: [[0, "first"]] }], feed);
  assert.deepEqual(outcomes, ["applied", "applied"]);
  assert.equal(feed.position?.fix_time, 11_000);
  assert.deepEqual(feed.track.former.map((line) => line.map(([, , time]) => time)), [[9_000, 60_000]]);
  assert.deepEqual(feed.track.line.map(([, , time]) => time), [11_000]);
  // A trip that is over does not name its vehicle.
  feedOf([{ type: "trip", offset: 5, trip: { ...TRIP, status: "complete" } }], feed);
  assert.equal(feed.position?.fix_time, 11_000);
  assert.equal(feed.track.points.length, 3);
});

test("who joins after the change has each vehicle's line, and no place before the second one's first", () => {
  const { feed } = feedOf([snapshot(7, "e", { trip: { ...TRIP, vehicle: { vehicle_id: "second" } }, track: [[9, 47, 1]], segments: [[0, "first"]] }), position(8)]);
  assert.deepEqual([feed.track.former, feed.track.line.length], [[[[9, 47, 1]]], 1]);
});

test("progress and status are kept, ticks set the clock", () => {
  const feed = new Feed();
  feedOf([snapshot(0), { type: "progress", offset: 1, remaining_distance: 700, eta: 5 }, { type: "trip", offset: 2, trip: { ...TRIP, status: "arrived_at_pickup" } }], feed);
  feed.receive({ type: "tick", server_time: 10_000 }, 4_000);
  feed.receive({ type: "tick", server_time: 20_000 }, 14_900);
  assert.equal(feed.progress?.remaining_distance, 700);
  assert.equal(feed.trip?.status, "arrived_at_pickup");
  assert.equal(feed.clock.at(5_000), 11_000);
});

test("frames that are no message are unknown", () => {
  for (const frame of ["", "{", "null", "[]", "1", '{"type":"constructor"}', '{"type":"__proto__"}', '{"type":"snapshot"}', new ArrayBuffer(2)]) {
    assert.deepEqual(decodeForPassenger(frame), { type: "unknown" });
  }
});

/** A small hub. It numbers its updates, keeps some of them, and greets a connection as the protocol says. */
class SmallHub {
  epoch = "e0";
  /** @type {any[]} */
  log = [];
  first = 1;
  /** @type {Map<number, [number, number, number]>} */
  line = new Map();
  clock = 1_000;
  status = "enroute_to_pickup";
  /** @type {any} */
  last = null;

  get offset() {
    return this.first - 1 + this.log.length;
  }

  /** @param {ReturnType<typeof seeded>} dice */
  update({ integer, chance }) {
    const offset = this.offset + 1;
    if (chance(0.7)) {
      this.clock += integer(1, 5);
      const message = { type: "position", offset, latitude: 47 + offset / 1e4, longitude: 9.5, fix_time: this.clock, server_time: this.clock };
      this.last = message;
      this.line.set(this.clock, [message.longitude, message.latitude, this.clock]);
      this.log.push(message);
    } else if (chance(0.5)) {
      const from = integer(1_000, this.clock);
      const to = Math.min(from + integer(0, 12), this.clock);
      for (let time = from; time <= to; time += 1) if (chance(0.3)) this.line.set(time, [9.6, 47 + time / 1e5, time]);
      this.log.push({ type: "track_revised", offset, from, to, track: this.track.filter(([, , time]) => time >= from && time <= to) });
    } else if (chance(0.5)) {
      this.status = chance(0.5) ? "arrived_at_pickup" : "enroute_to_dropoff";
      this.log.push({ type: "trip", offset, trip: { ...TRIP, status: this.status } });
    } else {
      this.log.push({ type: chance(0.5) ? "message" : "novelty", offset, text: "hello", from: "driver", server_time: this.clock });
    }
  }

  get track() {
    return [...this.line.values()].sort((one, other) => one[2] - other[2]);
  }

  forget(/** @type {number} */ count) {
    this.log.splice(0, count);
    this.first += count;
  }

  restart(/** @type {string} */ epoch) {
    this.epoch = epoch;
    this.log = [];
    this.first = 1;
  }

  /** @param {{epoch: string, offset: number} | null} cursor @returns {any[]} */
  greet(cursor) {
    if (cursor?.epoch === this.epoch && cursor.offset >= this.first - 1 && cursor.offset <= this.offset) {
      return [{ type: "resumed", ...cursor }, ...this.log.slice(cursor.offset - this.first + 1)];
    }
    const track = this.track.map((point) => [...point]);
    return [{ type: "snapshot", epoch: this.epoch, offset: this.offset, server_time: this.clock, trip: { ...TRIP, status: this.status }, position: this.last ?? undefined, track }];
  }
}

test("through breaks, restarts, lost and repeated frames the page ends with the hub's line, and no hole is taken for none", () => {
  for (let seed = 1; seed <= 300; seed += 1) {
    const dice = seeded(seed);
    const { integer, chance } = dice;
    const hub = new SmallHub();
    const feed = new Feed();
    let sent = 0;
    const deliver = (/** @type {any} */ message) => feed.receive(decodeForPassenger(JSON.stringify(message)), 0);
    const connect = () => {
      feed.begin();
      for (const message of hub.greet(feed.cursor)) assert.notEqual(deliver(message), "gap", `seed ${seed}`);
      sent = hub.offset;
    };
    connect();
    for (let step = 0; step < 80; step += 1) {
      if (chance(0.75)) hub.update(dice);
      if (chance(0.04)) hub.forget(integer(0, hub.log.length));
      if (chance(0.02)) {
        hub.restart(`e${step}`);
        connect();
      }
      while (sent < hub.offset) {
        if (chance(0.1)) break;
        sent += 1;
        const message = hub.log[sent - hub.first];
        if (!message || chance(0.03)) continue;
        const outcome = deliver(message);
        if (chance(0.1)) assert.equal(deliver(message), outcome === "gap" ? "gap" : "ignored");
        if (outcome === "gap") {
          feed.forget();
          connect();
        }
      }
      if (chance(0.08)) connect();
    }
    connect();
    assert.deepEqual(feed.track.points, hub.track, `seed ${seed}`);
    assert.deepEqual([feed.cursor?.epoch, feed.cursor?.offset], [hub.epoch, hub.offset]);
    assert.equal(feed.trip?.status, hub.status);
    assert.equal(feed.position?.fix_time, hub.last?.fix_time);
  }
});

test("`since` is the newest time of what was received, and ticks don't count", () => {
  const { feed } = feedOf([snapshot(4, "e", { position: position(4) })]);
  assert.deepEqual(feed.cursor, { epoch: "e", offset: 4, since: 4_050 });
  feedOf([position(5), { type: "tick", server_time: 99_000 }], feed);
  assert.equal(feed.cursor?.since, 5_050);
  feedOf([{ type: "message", offset: 6, text: "hello", from: "driver", server_time: 7_000 }], feed);
  assert.equal(feed.cursor?.since, 7_000);
  // Another state, which may be older.
  feedOf([snapshot(2, "f")], feed);
  assert.deepEqual(feed.cursor, { epoch: "f", offset: 2 });
  feed.forget();
  assert.equal(feed.cursor, null);
});

test("a snapshot with `since` adds to the line, keeps the marker, and brings each message once", () => {
  const hello = { type: "message", offset: 6, text: "hello", from: "driver", server_time: 5_500 };
  const { feed } = feedOf([snapshot(4, "e", { track: [[9, 47, 1]], position: position(4) }), position(5), hello]);
  feed.begin();
  const missed = { text: "here", from: "driver", server_time: 6_000 };
  const more = { since: 5_500, position: position(4), messages: [hello, missed], track: [[9.6, 47, 4_000], [9.7, 47, 4_500]], segments: [[0, ""]] };
  feedOf([snapshot(1, "f", more)], feed);
  assert.equal(feed.position?.fix_time, 5_000);
  assert.deepEqual(feed.track.points.map(([longitude, , time]) => [longitude, time]), [[9, 1], [9.5, 4_000], [9.7, 4_500], [9.5, 5_000]]);
  assert.deepEqual(feed.missedMessages.map(({ text }) => text), ["here"]);
  assert.deepEqual(feed.cursor, { epoch: "f", offset: 1, since: 6_000 });
  assert.deepEqual(feedOf([{ ...position(7), offset: 2 }], feed).outcomes, ["applied"]);
  // The part of another vehicle is its own line, and a page without a state takes all of it.
  feed.begin();
  feedOf([snapshot(3, "g", { since: 7_050, track: [[9.8, 47, 100]], segments: [[0, "former"]] })], feed);
  assert.deepEqual(feed.track.former, [[[9.8, 47, 100]]]);
  const fresh = feedOf([snapshot(3, "g", more)]).feed;
  assert.deepEqual(fresh.track.points.map(([, , time]) => time), [4_000, 4_500]);
});

test("snapshots that overlap make the same line, wherever the page was cut off", () => {
  for (let seed = 1; seed <= 100; seed += 1) {
    const { integer, chance } = seeded(seed);
    /** @type {[number, number, number][]} */
    const line = [];
    const feed = new Feed();
    feedOf([snapshot(0, "e0")], feed);
    let offset = 0;
    for (let step = 1; step <= 60; step += 1) {
      const time = step * 1_000;
      line.push([9.5, 47.1, time]);
      if (chance(0.6)) feedOf([position((offset += 1), time)], feed);
      else {
        const since = feed.cursor?.since;
        const track = line.filter(([, , at]) => since === undefined || at + 50 >= since - integer(0, 5) * 1_000);
        const newest = { ...position(0, time), offset: undefined };
        offset = integer(0, 9);
        feed.begin();
        feedOf([snapshot(offset, `e${step}`, { track, position: newest, ...(since === undefined ? {} : { since, messages: [] }) })], feed);
      }
      assert.equal(feed.position?.fix_time, time);
      assert.deepEqual(feed.track.points, line, `seed ${seed}`);
    }
  }
});
