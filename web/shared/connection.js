import { endingOf, isBusy } from "./close_codes.js";

/** @typedef {import("./close_codes.js").Ending} Ending */

/** @typedef {"connecting" | "open" | "waiting" | "ended"} ConnectionState */

/**
 * The parts of the world a connection touches, so that a test can bring its own.
 * @typedef {object} World
 * @property {new (url: string, protocols: string[]) => Pick<WebSocket, "close" | "send" | "onopen" | "onmessage" | "onclose" | "onerror">} WebSocket
 * @property {() => number} now milliseconds that only rise
 * @property {(call: () => void, delay: number) => unknown} setTimeout
 * @property {(timer: any) => void} clearTimeout
 * @property {() => number} random 0 to 1
 */

/**
 * @typedef {object} Options
 * @property {string} url without the place in the feed
 * @property {string} token goes into the subprotocol, and nowhere else
 * @property {() => {epoch: string, offset: number} | null} cursor where to resume
 * @property {() => void} onOpen a new connection stands, nothing has come through it
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
/** A tick comes every 15 s; past this, a line that the page had no eyes on is better made anew than waited for. */
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

/** One socket at a time, made anew whenever it breaks, until the hub says that it is no use. */
export class Connection {
  /** @type {ConnectionState} */
  state = "waiting";

  /** @type {Ending | null} */
  ending = null;

  /** The code of the last close that the hub, or the browser, gave. */
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

  /** Connects now, unless a socket is there already or the hub said not to. */
  open() {
    if (this.state === "ended" || this.#socket) return;
    this.#clearTimer();
    /** @type {InstanceType<World["WebSocket"]>} */
    let socket;
    try {
      socket = new this.#world.WebSocket(this.#url(), ["tracking.v1", `bearer.${this.#options.token}`]);
    } catch {
      // A token with characters that no subprotocol may have was never one of the hub's.
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
   * Sends where the line is open; otherwise what was to be said is said by whoever finds it open again.
   * @param {object} message
   */
  send(message) {
    if (this.state !== "open" || !this.#socket) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  /** Drops the socket and makes another: what came through it can't be continued. */
  restart() {
    if (this.state === "ended") return;
    this.#drop();
    this.#retry();
  }

  /**
   * The world changed (the network is back, the page is looked at again): no more waiting. An open line that has been
   * silent for longer than `patience` is taken for dead.
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

  /** Lets the socket go until `wake`. */
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
    // From a quarter to the whole: a hub that comes up again is not met by everyone in the same second.
    const delay = ceiling * (0.25 + 0.75 * this.#world.random());
    this.#timer = this.#world.setTimeout(() => this.open(), delay);
    this.#become("waiting");
  }

  #watch() {
    this.#clearTimer();
    const left = this.#heardAt + SILENCE_LIMIT - this.#world.now();
    this.#timer = this.#world.setTimeout(() => (left > 0 ? this.#watch() : this.#closed(0)), Math.max(left, 0));
  }

  /** The handlers go first: a dead line may take a minute to report its own end. */
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
    return `${this.#options.url}?epoch=${encodeURIComponent(cursor.epoch)}&offset=${cursor.offset}`;
  }
}
