const SAMPLES = 4;

/** The hub's clock, as far as it can be known from what the hub says: a phone's own may be minutes wrong. */
export class ServerClock {
  /** @type {number[]} */
  #ahead = [];

  /**
   * The hub said that it is `serverTime`; this device's clock shows `localTime`.
   * @param {number} serverTime
   * @param {number} localTime
   */
  hear(serverTime, localTime) {
    this.#ahead.push(serverTime - localTime);
    if (this.#ahead.length > SAMPLES) this.#ahead.shift();
  }

  /**
   * The hub's time when this device's clock shows `localTime`. Of the last samples the greatest is nearest the truth: it
   * was the least delayed on its way.
   * @param {number} localTime
   */
  at(localTime) {
    return localTime + (this.#ahead.length ? Math.max(...this.#ahead) : 0);
  }
}
