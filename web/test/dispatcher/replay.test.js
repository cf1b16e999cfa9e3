import assert from "node:assert/strict";
import { test } from "node:test";

import { Playback } from "../../dispatcher/state/playback.js";
import { parseTrack, Recording } from "../../dispatcher/state/recording.js";

const HEADER = "vehicle_id,session,seq,fix_time,server_time,latitude,longitude,accuracy,altitude,speed,bearing,trip_id,suspect";
const line = (/** @type {number} */ time, latitude = 47, speed = "5.5", bearing = "0") => `v,s,1,${time},${time},${latitude},9.5,,,${speed},${bearing},,`;

test("a track is read by the names of its columns", () => {
  const samples = parseTrack([HEADER, line(2_000, 47.1), line(1_000, 47), ""].join("\n"));
  assert.deepEqual(samples.map(({ fixTime, latitude }) => [fixTime, latitude]), [[1_000, 47], [2_000, 47.1]]);
  assert.deepEqual(parseTrack("latitude,fix_time,longitude\r\n47,5,9\r\n"), [{ fixTime: 5, latitude: 47, longitude: 9, speed: null, bearing: null }]);
});

test("quoted fields and lines that are no row do no harm", () => {
  const quoted = `"a,""b""",s,1,3000,3000,47,9.5,,,,,,`;
  assert.deepEqual(parseTrack([HEADER, quoted, "nonsense"].join("\n")).map(({ fixTime }) => fixTime), [3_000]);
  assert.deepEqual(parseTrack(""), []);
  assert.deepEqual(parseTrack("{}"), []);
});

test("between two fixes the vehicle is between their places, turning the shorter way", () => {
  const recording = new Recording(parseTrack([HEADER, line(0, 47, "1", "350"), line(10_000, 47.001, "2", "10")].join("\n")));
  const middle = recording.at(5_000);
  assert.ok(Math.abs((middle?.latitude ?? 0) - 47.0005) < 1e-9);
  assert.equal(middle?.bearing, 0);
  assert.equal(recording.at(-5)?.latitude, 47);
  assert.equal(recording.at(99_000)?.latitude, 47.001);
});

test("in a long silence it waits where it was last seen", () => {
  const recording = new Recording(parseTrack([HEADER, line(0), line(600_000, 47.1)].join("\n")));
  assert.equal(recording.at(300_000)?.latitude, 47);
  assert.deepEqual(recording.stretchesUntil(1).map((stretch) => stretch.length), [1, 1]);
  assert.equal(recording.length, 0);
});

test("without bearings it points where it drove", () => {
  const recording = new Recording(parseTrack([HEADER, line(0, 47, "", ""), line(1_000, 47.01, "", "")].join("\n")));
  assert.ok((recording.at(0)?.bearing ?? 99) < 0.01);
  assert.ok((recording.at(1_000)?.bearing ?? 99) < 0.01);
  assert.ok(Math.abs(recording.length - 1_112) < 2);
});

test("a receiver that wanders while its vehicle stands drives nothing", () => {
  const metre = 1 / 111_195;
  const drive = (/** @type {number} */ begin, /** @type {number} */ from) => Array.from({ length: 101 }, (_, n) => line(begin + n * 1_000, 47 + (from + n * 10) * metre));
  // Within 20 m for an hour, but for an excursion of 250 m, 20 s long, every ten minutes.
  const stand = Array.from({ length: 720 }, (_, n) => {
    const astray = n % 120 > 115 ? 250 : 0;
    return line(101_000 + n * 5_000, 47 + (1_000 + 20 * Math.sin(n * 7) + astray) * metre);
  });
  const recording = new Recording(parseTrack([HEADER, ...drive(0, 0), ...stand, ...drive(3_701_000, 1_000)].join("\n")));
  assert.ok(Math.abs(recording.length - 2_000) < 100, `${recording.length} m`);
});

test("nothing recorded is nothing shown", () => {
  const recording = new Recording([]);
  assert.ok(recording.isEmpty);
  assert.equal(recording.at(0), null);
});

test("the clock runs as fast as it is set, pauses, and stops at the end", () => {
  const playback = new Playback();
  playback.load(0, 100_000);
  playback.rate = 10;
  playback.play(50);
  assert.equal(playback.tick(1_050), 10_000);
  playback.rate = 60;
  assert.equal(playback.tick(1_550), 40_000);
  playback.pause();
  assert.equal(playback.tick(9_000), 40_000);
  playback.play(9_000);
  assert.equal(playback.tick(99_000), 100_000);
  assert.equal(playback.playing, false);
});

test("played at its end it begins anew; a seek stays within, and an unknown rate is none", () => {
  const playback = new Playback();
  playback.load(1_000, 5_000);
  playback.seek(99_000);
  assert.equal(playback.time, 5_000);
  playback.play(0);
  assert.equal(playback.time, 1_000);
  playback.seek(-1);
  assert.equal(playback.time, 1_000);
  playback.rate = 7;
  assert.equal(playback.rate, 10);
  playback.load(0, 0);
  playback.play(0);
  assert.equal(playback.playing, false);
});
