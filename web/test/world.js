/** A fake browser: the test moves its time, and controls its sockets. */
export function world() {
  let time = 0;
  let nextTimer = 1;
  /** @type {Map<number, {at: number, call: () => void}>} */
  const timers = new Map();
  /** @type {any[]} */
  const sockets = [];
  class Socket {
    /** @type {any} */ onopen = null;
    /** @type {any} */ onmessage = null;
    /** @type {any} */ onclose = null;
    /** @type {any} */ onerror = null;
    closed = false;
    /** @type {string[]} */
    sent = [];
    constructor(/** @type {string} */ url, /** @type {string[]} */ protocols) {
      if (protocols.some((name) => /[\s=]/.test(name))) throw new SyntaxError("bad subprotocol");
      Object.assign(this, { url, protocols });
      sockets.push(this);
    }
    send(/** @type {string} */ text) {
      this.sent.push(text);
    }
    close() {
      this.closed = true;
    }
  }
  const turn = (/** @type {number} */ milliseconds) => {
    const end = time + milliseconds;
    for (;;) {
      const due = [...timers].filter(([, timer]) => timer.at <= end).sort((one, other) => one[1].at - other[1].at)[0];
      if (!due) break;
      timers.delete(due[0]);
      time = Math.max(time, due[1].at);
      due[1].call();
    }
    time = end;
  };
  return {
    sockets,
    turn,
    last: () => sockets[sockets.length - 1],
    open: () => sockets.filter((socket) => !socket.closed).length,
    parts: {
      WebSocket: /** @type {any} */ (Socket),
      now: () => time,
      setTimeout: (/** @type {() => void} */ call, /** @type {number} */ delay) => {
        timers.set(nextTimer, { at: time + delay, call });
        return nextTimer++;
      },
      clearTimeout: (/** @type {any} */ timer) => void timers.delete(timer),
      random: () => 1,
    },
  };
}
