import assert from "node:assert/strict";
import { test } from "node:test";

import { boxAround } from "../dispatcher/map/initial_view.js";
import { beyondAntimeridian } from "../dispatcher/state/geofences.js";
import { Recording } from "../dispatcher/state/recording.js";
import { placeAt, Vehicles } from "../dispatcher/state/vehicles.js";
import { bearing, distance, near, travel, unrolled, wrap } from "../shared/geo.js";
import { Motion } from "../shared/motion.js";
import { seeded } from "./random.js";

/** The same drive, with the antimeridian in its middle or far away: `wrap` of a longitude that was shifted. */
const SHIFT = 170;
const shifted = (/** @type {number} */ longitude) => wrap(longitude + SHIFT);
const close = (/** @type {number} */ one, /** @type {number} */ other, room = 1e-9) => assert.ok(Math.abs(one - other) < room, `${one} is not ${other}`);

/** Somewhere within a degree of 10° E: shifted, within a degree of 180°. @param {ReturnType<typeof seeded>} dice */
const place = ({ integer }) => ({ latitude: -17 + integer(0, 1_000) / 1_000, longitude: 9 + integer(0, 2_000) / 1_000 });
const moved = (/** @type {{latitude: number, longitude: number}} */ { latitude, longitude }) => ({ latitude, longitude: shifted(longitude) });

test("distances, bearings and ways are the same on both sides of the antimeridian", () => {
  for (let seed = 1; seed <= 200; seed += 1) {
    const dice = seeded(seed);
    const [one, other] = [place(dice), place(dice)];
    close(distance(moved(one), moved(other)), distance(one, other), 1e-5);
    if (distance(one, other) > 0) close(bearing(moved(one), moved(other)), bearing(one, other), 1e-6);
    close(wrap(travel(moved(one), 77, 5_000).longitude), shifted(travel(one, 77, 5_000).longitude));
  }
});

test("a longitude goes to the copy of the world that is meant, and stays exactly itself in its own", () => {
  assert.equal(near(9.521, 9.6), 9.521);
  assert.equal(near(-179.9, 179.9), 180.1);
  assert.equal(near(179.9, -179.9), -180.1);
  assert.equal(near(-179.5, 720), 540.5);
  assert.equal(wrap(180), 180);
  assert.equal(wrap(-180), -180);
  close(wrap(180.25), -179.75);
  assert.deepEqual(unrolled([[179.5, 1], [-179.5, 2]], -180), [[1, -180.5], [2, -179.5]]);
});

test("a line is drawn without a step around the world, wherever it lies", () => {
  for (let seed = 1; seed <= 100; seed += 1) {
    const dice = seeded(seed);
    const line = Array.from({ length: dice.integer(1, 20) }, () => place(dice));
    const points = line.map(moved).map(({ latitude, longitude }) => /** @type {[number, number]} */ ([longitude, latitude]));
    const reference = dice.chance(0.5) ? 180 : -180;
    const drawn = unrolled(points, reference);
    drawn.forEach(([latitude, longitude], index) => {
      assert.equal(latitude, line[index].latitude);
      close(longitude, line[index].longitude + SHIFT + (reference < 0 ? -360 : 0));
    });
  }
});

test("the car glides over the antimeridian as it glides elsewhere", () => {
  const shown = [0, SHIFT].map((shift) => {
    const motion = new Motion();
    /** @type {{latitude: number, longitude: number}[]} */
    const frames = [];
    for (let now = 0; now < 12_000; now += 100) {
      if (now % 1_000 === 0) motion.push({ latitude: -17, longitude: wrap(9.9995 + now * 1e-7 + shift), fix_time: now, server_time: now, speed: 10 }, now);
      const frame = motion.frame(now);
      if (frame) frames.push(frame);
    }
    return frames;
  });
  assert.ok(new Set(shown[1].map(({ longitude }) => Math.sign(longitude))).size === 2, "it crosses");
  shown[0].forEach(({ latitude, longitude }, index) => {
    close(shown[1][index].latitude, latitude);
    close(shown[1][index].longitude, shifted(longitude), 1e-8);
  });
});

test("a recording is drawn, measured and played over the antimeridian as elsewhere", () => {
  const samples = [9.97, 9.99, 10.01, 10.03].map((longitude, n) => ({ fixTime: n * 10_000, latitude: -17, longitude, speed: 10, bearing: null }));
  const here = new Recording(samples);
  const there = new Recording(samples.map((sample) => ({ ...sample, longitude: shifted(sample.longitude) })));
  close(there.length, here.length, 1e-5);
  for (let time = 0; time <= 30_000; time += 1_500) {
    close(there.at(time)?.longitude ?? NaN, shifted(here.at(time)?.longitude ?? NaN));
    close(there.at(time)?.bearing ?? NaN, here.at(time)?.bearing ?? NaN, 1e-6);
  }
  here.linesUntil(3, 10).flat().forEach(([, longitude], index) => {
    close(there.linesUntil(3, 180).flat()[index][1], longitude + SHIFT);
    close(there.linesUntil(3, -180).flat()[index][1], longitude + SHIFT - 360);
  });
});

test("a vehicle of the fleet glides over the antimeridian", () => {
  const state = { vehicle_id: "v", name: "V", kind: "", plate: "", latitude: 0, longitude: 179.9999, fix_time: 0, status: "available" };
  const vehicles = new Vehicles();
  vehicles.receive(/** @type {any} */ ({ type: "fleet_snapshot", cells: [], vehicles: [state] }), 0);
  vehicles.receive(/** @type {any} */ ({ type: "fleet", positions: [["v", 0, -179.9999, null, 5, 2_000]] }), 2_000);
  const vehicle = vehicles.byId.get("v");
  assert.ok(vehicle && vehicle.glide > 0, "it is no leap");
  const { x } = placeAt(vehicle, 3_000);
  close(x - Math.round(x), 0, 1e-7);
});

test("a fence that is cut at the antimeridian is drawn in one place, and any other where it is", () => {
  const ring = (/** @type {number} */ west, /** @type {number} */ east) => [[[west, -17], [east, -17], [east, -16], [west, -17]]];
  const fence = (/** @type {any[]} */ ...coordinates) => /** @type {any} */ ({ id: "f", properties: {}, geometry: { type: "MultiPolygon", coordinates } });
  assert.deepEqual(beyondAntimeridian(fence(ring(179, 180), ring(-180, -179))).geometry.coordinates, [ring(179, 180), ring(180, 181)]);
  for (const other of [fence(ring(170, 180), ring(-179, -178)), fence(ring(9, 10), ring(-10, -9))]) assert.equal(beyondAntimeridian(other), other);
});

test("a fleet on both sides of the antimeridian is in one small box", () => {
  const [south, west, north, east] = boxAround([{ latitude: -17, longitude: 179.95 }, { latitude: -16.9, longitude: -179.95 }]) ?? [];
  assert.ok(east - west < 0.2 && north - south < 0.2);
});
