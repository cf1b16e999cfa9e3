import { endingOf, isBusy, isPlanned } from "./close_codes.js";

/** @typedef {import("./close_codes.js").Ending} Ending */

/** @typedef {"connecting" | "open" | "waiting" | "ended"} ConnectionState */

/**
 * The browser functions that a connection uses, so that a test can replace them.
 * @typedef {object} World
 * @property {new (url: string, protocols: string[]) => Pick<WebSocket, "close" | "send" | "onopen" | "onmessage" | "onclose" | "onerror">} WebSocket
 * @property {() => number} now milliseconds that only rise
 * @property {(call: () => void, delay: number) => unknown} setTimeout
 * @property {(timer: any) => void} clearTimeout
 * @property {() => number} random 0 to 1
 */

/**
 * Where a feed stands: its epoch and offset, and the newest `server_time` of what it has, for a hub that does not know the epoch.
 * @typedef {{epoch: string, offset: number, since?: number}} Cursor
 */

/**
 * @typedef {object} Options
 * @property {string} url without the cursor
 * @property {string} token goes into the subprotocol, and nowhere else
 * @property {() => Cursor | null} cursor where to resume
 * @property {() => void} onOpen a new connection is open, and no message has arrived
 * @property {(frame: unknown) => void} onFrame
 * @property {(state: ConnectionState, ending: Ending | null) => void} onState
 * @property {World} [world]
 */

export const SILENCE_LIMIT = 40_000;
const OPENING_LIMIT = 15_000;
const STEADY_AFTER = 10_000;
const FIRST_DELAY = 1_000;
const LONGEST_DELAY = 30_000;
const BUSY_ATTEMPTS = 3;
/** Milliseconds. A shorter disconnection is not shown. */
const GRACE = 1_200;
/** The same when the hub said that it goes. Another one takes over, and the first attempt comes within a second. */
const PLANNED_GRACE = 3_000;
/** Milliseconds of silence after which `wake` replaces an open connection. The hub sends a tick every 15 s. */
const DOUBTFUL_AFTER = 20_000;

/** @returns {World} */
function browserWorld() {
  return {
    WebSocket,
    now: () => performance.now(),
    setTimeout: (call, delay) => setTimeout(call, delay),
    clearTimeout: (timer) => clearTimeout(timer),
    random: Math.random,
  };
}

/** Keeps one socket open. It reconnects after a failure, until the hub's close code is final. */
export class Connection {
  /** @type {ConnectionState} */
  state = "waiting";

  /** @type {Ending | null} */
  ending = null;

  /** The last close code of the hub or the browser. */
  lastCode = 0;

  #options;
  #world;
  /** @type {InstanceType<World["WebSocket"]> | null} */
  #socket = null;
  /** @type {unknown} */
  #timer = null;
  #attempts = 0;
  #openedAt = 0;
  #heardAt = 0;

  /** @param {Options} options */
  constructor(options) {
    this.#options = options;
    this.#world = options.world ?? browserWorld();
  }

  /** For how many milliseconds the page says nothing of the present disconnection. */
  get grace() {
    return isPlanned(this.lastCode) ? PLANNED_GRACE : GRACE;
  }

  /** Connects now, unless a socket exists or the last close code was final. */
  open() {
    if (this.state === "ended" || this.#socket) return;
    this.#clearTimer();
    /** @type {InstanceType<World["WebSocket"]>} */
    let socket;
    try {
      socket = new this.#world.WebSocket(this.#url(), ["tracking.v1", `bearer.${this.#options.token}`]);
    } catch {
      // A token with characters that a subprotocol can't have is not one of the hub's.
      this.#end("invalid");
      return;
    }
    this.#socket = socket;
    socket.onopen = () => {
      this.#openedAt = this.#heardAt = this.#world.now();
      this.#watch();
      this.#options.onOpen();
      this.#become("open");
    };
    socket.onmessage = (event) => {
      this.#heardAt = this.#world.now();
      this.#options.onFrame(event.data);
    };
    socket.onclose = (event) => this.#closed(event.code);
    this.#timer = this.#world.setTimeout(() => this.#closed(0), OPENING_LIMIT);
    this.#become("connecting");
  }

  /**
   * Sends a message if the connection is open; drops it otherwise. `onOpen` must send it again.
   * @param {object} message
   */
  send(message) {
    if (this.state !== "open" || !this.#socket) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  /** Replaces the socket, because its feed can't be continued. */
  restart() {
    if (this.state === "ended") return;
    this.lastCode = 0;
    this.#drop();
    this.#retry();
  }

  /**
   * Connects at once, because the network is back or the page is visible again. An open connection that has been silent for
   * longer than `patience` is replaced.
   * @param {number} [patience]
   */
  wake(patience = DOUBTFUL_AFTER) {
    if (this.state === "ended") return;
    if (this.#socket) {
      if (this.state !== "open" || this.#world.now() - this.#heardAt <= patience) return;
      this.#drop();
    }
    this.#attempts = 0;
    this.open();
  }

  /** Closes the socket until `wake`. */
  sleep() {
    if (this.state === "ended") return;
    this.#drop();
    this.#become("waiting");
  }

  /** @param {number} code */
  #closed(code) {
    this.lastCode = code;
    const ending = endingOf(code);
    this.#drop();
    if (ending) this.#end(ending);
    else this.#retry(isBusy(code) ? BUSY_ATTEMPTS : 0);
  }

  #retry(atLeast = 0) {
    if (this.#openedAt && this.#world.now() - this.#openedAt >= STEADY_AFTER) this.#attempts = 0;
    this.#openedAt = 0;
    const attempt = Math.max(this.#attempts, atLeast);
    this.#attempts = attempt + 1;
    const ceiling = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** attempt);
    // The delay is random, from a quarter to all of the ceiling, so that clients don't return in the same second.
    const delay = ceiling * (0.25 + 0.75 * this.#world.random());
    this.#timer = this.#world.setTimeout(() => this.open(), delay);
    this.#become("waiting");
  }

  #watch() {
    this.#clearTimer();
    const left = this.#heardAt + SILENCE_LIMIT - this.#world.now();
    this.#timer = this.#world.setTimeout(() => (left > 0 ? this.#watch() : this.#closed(0)), Math.max(left, 0));
  }

  /** Removes the handlers first. A dead connection may take a minute to report its end. */
  #drop() {
    this.#clearTimer();
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = socket.onerror = null;
    socket.close();
  }

  /** @param {Ending} ending */
  #end(ending) {
    this.#clearTimer();
    this.ending = ending;
    this.#become("ended");
  }

  /** @param {ConnectionState} state */
  #become(state) {
    this.state = state;
    this.#options.onState(state, this.ending);
  }

  #clearTimer() {
    this.#world.clearTimeout(this.#timer);
    this.#timer = null;
  }

  #url() {
    const cursor = this.#options.cursor();
    if (!cursor) return this.#options.url;
    const since = cursor.since === undefined ? "" : `&since=${cursor.since}`;
    return `${this.#options.url}?epoch=${encodeURIComponent(cursor.epoch)}&offset=${cursor.offset}${since}`;
  }
}
