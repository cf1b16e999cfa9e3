/** How many seconds of the drive pass in one second of watching. */
export const RATES = [1, 2, 5, 10, 30, 60];

/** The clock of a replay. Each call passes the time in milliseconds, which only rise. */
export class Playback {
  playing = false;
  time = 0;

  #from = 0;
  #to = 0;
  #rate = 10;
  #tickedAt = 0;

  /** Sets the time range to play, and goes to its start. @param {number} from @param {number} to */
  load(from, to) {
    this.#from = from;
    this.#to = to;
    this.time = from;
    this.playing = false;
  }

  get from() {
    return this.#from;
  }

  get to() {
    return this.#to;
  }

  get rate() {
    return this.#rate;
  }

  set rate(rate) {
    if (RATES.includes(rate)) this.#rate = rate;
  }

  /** Starts playing; at the end of the range, starts again from its start. @param {number} now */
  play(now) {
    if (this.#to <= this.#from) return;
    if (this.time >= this.#to) this.time = this.#from;
    this.playing = true;
    this.#tickedAt = now;
  }

  pause() {
    this.playing = false;
  }

  /** @param {number} time */
  seek(time) {
    this.time = Math.min(Math.max(time, this.#from), this.#to);
  }

  /** The instant to show at `now`; at the end it stops. @param {number} now */
  tick(now) {
    if (!this.playing) return this.time;
    this.seek(this.time + Math.max(now - this.#tickedAt, 0) * this.#rate);
    this.#tickedAt = now;
    if (this.time >= this.#to) this.playing = false;
    return this.time;
  }
}
