const SAMPLES = 4;

/** An estimate of the hub's clock from its messages. A phone's own clock may be minutes wrong. */
export class ServerClock {
  /** @type {number[]} */
  #ahead = [];

  /**
   * Takes a sample: the hub's `serverTime` arrived at this device's `localTime`.
   * @param {number} serverTime
   * @param {number} localTime
   */
  hear(serverTime, localTime) {
    this.#ahead.push(serverTime - localTime);
    if (this.#ahead.length > SAMPLES) this.#ahead.shift();
  }

  /**
   * The hub's time when this device's clock shows `localTime`. The greatest of the last samples is the most exact, because it
   * had the least delay.
   * @param {number} localTime
   */
  at(localTime) {
    return localTime + (this.#ahead.length ? Math.max(...this.#ahead) : 0);
  }
}
