import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { Api } from "../../dispatcher/state/api.js";

const { fetch: ownFetch } = globalThis;
afterEach(() => {
  globalThis.fetch = ownFetch;
});

test("all trips of a status come, a page at a time", async () => {
  const trips = Array.from({ length: 2_500 }, (_, number) => ({ trip_id: `t${number}`, created_at: 1_000 + Math.floor(number / 3) }));
  const asked = [];
  globalThis.fetch = async (address) => {
    const query = new URL(String(address), "http://hub").searchParams;
    asked.push(query.get("before"));
    const before = Number(query.get("before") ?? Infinity);
    const page = trips.filter((trip) => trip.created_at < before).reverse().slice(0, Number(query.get("limit")));
    return new Response(JSON.stringify({ trips: page }), { status: 200, headers: { "Content-Type": "application/json" } });
  };
  const found = await new Api("taxis", "token").trips("new");
  assert.deepEqual(found.map(({ trip_id }) => trip_id).sort(), trips.map(({ trip_id }) => trip_id).sort());
  assert.equal(asked.length, 3);
});
