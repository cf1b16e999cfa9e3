import { bearing, distance, near, turn, wrap } from "../../shared/geo.js";

/** @typedef {{fixTime: number, latitude: number, longitude: number, speed: number | null, bearing: number | null}} Sample */
/** @typedef {{time: number, latitude: number, longitude: number, bearing: number | null, speed: number | null, index: number}} Moment */

/** Between two fixes farther apart than this, in milliseconds, the way is unknown. The vehicle is shown at the first. */
const LONGEST_GAP = 120_000;
const STANDING_DISTANCE = 4;

/** A vehicle stands when it stays within `radius` of its mean place for `after`. It drives when it is farther away, and not back soon. */
const STOP = { radius: 45, after: 60_000, drift: 100, back: 60_000 };

/**
 * The hub's CSV of a track, in the order of fix times.
 * @param {string} text
 * @returns {Sample[]}
 */
export function parseTrack(text) {
  const lines = text.split("\n");
  const columns = fields(lines[0] ?? "");
  const [time, latitude, longitude, speed, heading] = ["fix_time", "latitude", "longitude", "speed", "bearing"].map((name) => columns.indexOf(name));
  if (Math.min(time, latitude, longitude) < 0) return [];
  const optional = (/** @type {string | undefined} */ field) => (field ? Number(field) : null);
  /** @type {Sample[]} */
  const samples = [];
  for (const line of lines.slice(1)) {
    if (!line) continue;
    const row = fields(line);
    const sample = {
      fixTime: Number(row[time]),
      latitude: Number(row[latitude]),
      longitude: Number(row[longitude]),
      speed: optional(row[speed]),
      bearing: optional(row[heading]),
    };
    if ([sample.fixTime, sample.latitude, sample.longitude].every(Number.isFinite)) samples.push(sample);
  }
  return samples.sort((one, other) => one.fixTime - other.fixTime);
}

/** One row of CSV (RFC 4180, no line breaks within fields). @param {string} line */
function fields(line) {
  const row = line.endsWith("\r") ? line.slice(0, -1) : line;
  if (!row.includes('"')) return row.split(",");
  return [...row.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g)].map(([, quoted, plain]) => (quoted === undefined ? plain : quoted.replaceAll('""', '"')));
}

/** A past drive, which can be shown at any of its instants. */
export class Recording {
  /** @param {Sample[]} samples in the order of their fix times */
  constructor(samples) {
    this.samples = samples;
    this.from = samples[0]?.fixTime ?? 0;
    this.to = samples.at(-1)?.fixTime ?? 0;
  }

  get isEmpty() {
    return this.samples.length === 0;
  }

  /**
   * The vehicle at an instant, or null if nothing was recorded.
   * @param {number} time
   * @returns {Moment | null}
   */
  at(time) {
    if (this.isEmpty) return null;
    const index = Math.max(this.#countUntil(time) - 1, 0);
    const sample = this.samples[index];
    const next = this.samples[index + 1];
    const interval = next ? next.fixTime - sample.fixTime : 0;
    const share = next && interval > 0 && interval <= LONGEST_GAP ? Math.max((time - sample.fixTime) / interval, 0) : 0;
    if (!share) return { ...sample, time, index, bearing: this.#headingAt(index) };
    const here = this.#headingAt(index);
    const there = this.#headingAt(index + 1);
    return {
      time,
      index,
      latitude: sample.latitude + (next.latitude - sample.latitude) * share,
      longitude: wrap(sample.longitude + (near(next.longitude, sample.longitude) - sample.longitude) * share),
      speed: sample.speed,
      bearing: here === null || there === null ? (here ?? there) : (here + turn(here, there) * share + 360) % 360,
    };
  }

  /** The known distance in metres. The noise of a receiver that stands does not count. */
  get length() {
    return this.stretchesUntil(this.samples.length - 1).reduce((metres, stretch) => metres + lengthOf(stretch), 0);
  }

  /** The parts driven up to the sample with this index. A long gap begins a new part. @param {number} index */
  stretchesUntil(index) {
    /** @type {Sample[][]} */
    const stretches = [];
    let before = -Infinity;
    for (const sample of this.samples.slice(0, index + 1)) {
      if (sample.fixTime - before > LONGEST_GAP) stretches.push([]);
      stretches[stretches.length - 1].push(sample);
      before = sample.fixTime;
    }
    return stretches;
  }

  /**
   * The same parts as a map draws them; longitudes may pass 180 degrees.
   * @param {number} index
   * @param {number} reference a longitude in the copy of the world that the map shows
   * @returns {[latitude: number, longitude: number][][]}
   */
  linesUntil(index, reference) {
    let last = reference;
    return this.stretchesUntil(index).map((stretch) => stretch.map(({ latitude, longitude }) => [latitude, (last = near(longitude, last))]));
  }

  /** The receiver's bearing, or the direction to the next sample. @param {number} index */
  #headingAt(index) {
    const { samples } = this;
    if (samples[index].bearing !== null) return samples[index].bearing;
    const next = samples[index + 1];
    if (next && distance(samples[index], next) >= STANDING_DISTANCE) return bearing(samples[index], next);
    const before = samples[index - 1];
    return before && distance(before, samples[index]) >= STANDING_DISTANCE ? bearing(before, samples[index]) : null;
  }

  /** @param {number} time */
  #countUntil(time) {
    let low = 0;
    let high = this.samples.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.samples[middle].fixTime <= time) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/**
 * Metres of one part, by nearly the same rule as in the hub's summaries.
 * @param {Sample[]} stretch
 */
function lengthOf(stretch) {
  let metres = 0;
  let pending = 0;
  let place = { latitude: 0, longitude: 0, count: 0, since: 0, last: 0, stands: false };
  stretch.forEach((sample, index) => {
    if (index > 0) pending += distance(stretch[index - 1], sample);
    const away = place.count ? distance(place, sample) : Infinity;
    if (away <= (place.stands ? STOP.drift : STOP.radius)) {
      place.count += 1;
      place.latitude += (sample.latitude - place.latitude) / place.count;
      place.longitude += (sample.longitude - place.longitude) / place.count;
      place.last = sample.fixTime;
      place.stands ||= sample.fixTime - place.since >= STOP.after;
      if (place.stands) pending = 0;
    } else if (!place.stands || sample.fixTime - place.last > STOP.back) {
      metres += place.stands ? Math.max(pending, away) : pending;
      pending = 0;
      place = { latitude: sample.latitude, longitude: sample.longitude, count: 1, since: sample.fixTime, last: sample.fixTime, stands: false };
    }
  });
  return metres + pending;
}
