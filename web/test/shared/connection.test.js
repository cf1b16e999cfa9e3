import assert from "node:assert/strict";
import { test } from "node:test";

import { endingOf } from "../../shared/close_codes.js";
import { Connection, SILENCE_LIMIT } from "../../shared/connection.js";
import { world } from "../world.js";

/** @param {{token?: string}} [options] */
function connect({ token = "a.b.c" } = {}) {
  const around = world();
  const seen = { /** @type {any} */ cursor: null, opened: 0, /** @type {any[]} */ frames: [], /** @type {string[]} */ states: [] };
  const connection = new Connection({
    url: "ws://hub/v1/trips/t/live",
    token,
    cursor: () => seen.cursor,
    onOpen: () => (seen.opened += 1),
    onFrame: (frame) => seen.frames.push(frame),
    onState: (state) => seen.states.push(state),
    world: around.parts,
  });
  connection.open();
  return { connection, seen, ...around };
}

test("the token goes into the subprotocol and nowhere else", () => {
  const { last } = connect();
  assert.deepEqual(last().protocols, ["tracking.v1", "bearer.a.b.c"]);
  assert.equal(last().url, "ws://hub/v1/trips/t/live");
});

test("after a break it resumes where the feed stood", () => {
  const { last, seen, turn, sockets } = connect();
  last().onopen();
  last().onmessage({ data: "one" });
  seen.cursor = { epoch: "a/b", offset: 7 };
  last().onclose({ code: 1006 });
  turn(1_000);
  assert.equal(sockets.length, 2);
  assert.equal(last().url, "ws://hub/v1/trips/t/live?epoch=a%2Fb&offset=7");
  seen.cursor = { epoch: "a", offset: 7, since: 1_234 };
  last().onclose({ code: 1006 });
  turn(2_000);
  assert.equal(last().url, "ws://hub/v1/trips/t/live?epoch=a&offset=7&since=1234");
  assert.deepEqual(seen.frames, ["one"]);
  assert.deepEqual(seen.states, ["connecting", "open", "waiting", "connecting", "waiting", "connecting"]);
});

test("each failure waits longer, up to a limit, and a steady line starts afresh", () => {
  const { last, turn, sockets } = connect();
  const waits = [];
  for (let attempt = 0; attempt < 8; attempt += 1) {
    const before = sockets.length;
    last().onclose({ code: 1006 });
    let waited = 0;
    while (sockets.length === before) {
      turn(500);
      waited += 500;
    }
    waits.push(waited);
  }
  assert.deepEqual(waits, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
  last().onopen();
  turn(10_000);
  last().onclose({ code: 1012 });
  turn(1_000);
  assert.equal(sockets.length, 10);
});

test("a hub that takes the socket only to close it is not hammered", () => {
  const { last, turn, sockets } = connect();
  for (let second = 0; second < 120; second += 1) {
    if (!last().closed && last().onopen) {
      last().onopen();
      last().onclose({ code: 1012 });
    }
    turn(1_000);
  }
  assert.ok(sockets.length < 12, String(sockets.length));
});

test("a planned change of the hub takes a second at most, and is shown only if it takes long", () => {
  const { connection, last, turn, sockets } = connect();
  last().onopen();
  turn(10_000);
  assert.ok(connection.grace < 2_000);
  last().onclose({ code: 1012 });
  assert.equal(connection.grace, 3_000);
  turn(1_000);
  assert.equal(sockets.length, 2);
  last().onopen();
  last().onclose({ code: 1006 });
  assert.ok(connection.grace < 2_000);
});

test("a connection that is begun anew after a gap is no planned change", () => {
  const { connection, last, turn } = connect();
  last().onopen();
  last().onclose({ code: 1012 });
  turn(1_000);
  last().onopen();
  connection.restart();
  assert.ok(connection.grace < 2_000);
});

test("a busy hub is given more time", () => {
  for (const code of [4013, 4014, 4015]) {
    const { last, turn, sockets } = connect();
    last().onclose({ code });
    turn(7_999);
    assert.equal(sockets.length, 1);
    turn(1);
    assert.equal(sockets.length, 2);
  }
});

test("which codes end it and which bring it back", () => {
  const comesBack = [0, 1000, 1001, 1002, 1003, 1005, 1006, 1007, 1009, 1011, 1012, 1013, 1015, 4000, 4008, 4012, 4013, 4014, 4015, 4408, 4409, 4499];
  for (const code of comesBack) assert.equal(endingOf(code), null, String(code));
  const ends = { 4401: "incomplete", 4405: "expired", 4500: "invalid", 4501: "outdated", 4502: "invalid", 4503: "revoked", 4506: "over", 4999: "outdated" };
  for (const [code, ending] of Object.entries(ends)) {
    const { connection, last, turn, sockets } = connect();
    last().onopen();
    last().onclose({ code: Number(code) });
    turn(3_600_000);
    connection.wake(0);
    connection.open();
    connection.restart();
    connection.sleep();
    assert.equal(connection.state, "ended");
    assert.equal(connection.ending, ending);
    assert.equal(sockets.length, 1);
  }
});

test("silence past the limit is a dead line, and any frame puts it off", () => {
  const { last, turn, sockets, open } = connect();
  last().onopen();
  turn(SILENCE_LIMIT - 1);
  last().onmessage({ data: "tick" });
  turn(SILENCE_LIMIT - 1);
  assert.equal(sockets.length, 1);
  turn(1_001);
  assert.equal(sockets.length, 2);
  assert.equal(open(), 1);
});

test("a handshake that never ends is given up", () => {
  const { turn, sockets, open } = connect();
  turn(17_000);
  assert.equal(sockets.length, 2);
  assert.equal(open(), 1);
});

test("waking ends the wait at once, and doubts only a line that has been silent", () => {
  const { connection, last, turn, sockets, open } = connect();
  last().onclose({ code: 1006 });
  connection.wake();
  assert.equal(sockets.length, 2);
  connection.wake();
  assert.equal(sockets.length, 2, "already connecting");
  last().onopen();
  turn(6_000);
  connection.wake();
  assert.equal(sockets.length, 2);
  connection.wake(5_000);
  assert.equal(sockets.length, 3);
  assert.equal(open(), 1);
});

test("a socket that was given up is not heard any more", () => {
  const { connection, last, seen, turn } = connect();
  const first = last();
  first.onopen();
  connection.restart();
  assert.equal(first.onmessage, null);
  assert.equal(first.closed, true);
  turn(1_000);
  last().onopen();
  assert.equal(seen.opened, 2);
});

test("sleeping lets the socket go until it is woken", () => {
  const { connection, last, turn, sockets } = connect();
  last().onopen();
  connection.sleep();
  turn(3_600_000);
  assert.equal(sockets.length, 1);
  connection.wake();
  assert.equal(sockets.length, 2);
});

test("a token that can't be a subprotocol makes the link invalid", () => {
  const { connection } = connect({ token: "not a token" });
  assert.equal(connection.ending, "invalid");
});

test("what is sent goes out while the line is open, and is refused while it isn't", () => {
  const { connection, last } = connect();
  assert.equal(connection.send({ type: "viewport" }), false);
  last().onopen();
  assert.equal(connection.send({ type: "viewport", zoom: 3 }), true);
  assert.deepEqual(last().sent, ['{"type":"viewport","zoom":3}']);
  last().onclose({ code: 1006 });
  assert.equal(connection.send({ type: "viewport" }), false);
});
