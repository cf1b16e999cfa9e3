import { Connection } from "../shared/connection.js";
import { byId } from "../shared/dom.js";
import { socketAddress } from "../shared/hub.js";
import { copyLink } from "../shared/link.js";
import { decodeForPassenger } from "../shared/messages.js";
import { followPageLife } from "../shared/page_life.js";
import { Feed } from "./feed.js";
import { LiveMap } from "./live_map.js";
import { Notices } from "./notices.js";
import { Panel } from "./panel.js";
import { viewOf } from "./view.js";

/** @typedef {import("../shared/close_codes.js").Ending} Ending */

const OVER = new Set(["complete", "canceled"]);

/** The passenger's page. It passes the hub's messages to the map, the panel and the notices. */
export class PassengerPage {
  /** @type {Ending | null} */
  ending = null;
  /** True while the feed continues. An open socket is not enough: a hub in trouble may close it at once. */
  live = false;
  stale = false;

  #token;
  #staleAfter;
  #feed = new Feed();
  #panel = new Panel();
  #notices = new Notices();
  #copyButton = byId("copy-link");
  #map;
  #connection;

  /** @param {string} token @param {import("../shared/settings.js").Settings} settings */
  constructor(token, settings) {
    this.#token = token;
    this.#staleAfter = (settings.stale_after ?? 30) * 1_000;
    this.#map = new LiveMap(this.#feed, settings.basemap);
    const tripId = location.pathname.split("/").filter(Boolean).at(-1) ?? "";
    this.#connection = new Connection({
      url: socketAddress(`v1/trips/${encodeURIComponent(tripId)}/live`),
      token,
      cursor: () => this.#feed.cursor,
      onOpen: () => this.#feed.begin(),
      onFrame: (frame) => this.#receive(decodeForPassenger(frame)),
      onState: (state, ending) => {
        if (ending) this.#end(ending);
        else if (state !== "open") this.#showDown();
      },
    });
  }

  start() {
    this.#copyButton.addEventListener("click", () => copyLink(this.#token, this.#copyButton));
    followPageLife(this.#connection, () => this.#showDown());
    setInterval(() => !this.ending && this.#update(), 1_000);
    Object.defineProperty(window, "tracking", { value: viewOf({ connection: this.#connection, feed: this.#feed, map: this.#map, page: this }) });
    this.#copyButton.hidden = !this.#token;
    if (this.#token) this.#connection.open();
    else this.#end("incomplete");
  }

  #showLive() {
    this.live = true;
    this.#notices.showLive();
  }

  #showDown() {
    this.live = false;
    if (this.ending) return;
    const trying = this.#feed.trip ? "Reconnecting…" : "Trying to connect…";
    const words = navigator.onLine ? trying : "You’re offline. The map continues when the network is back.";
    this.#notices.showDown(words, this.#connection.grace);
  }

  /** @param {import("../shared/messages.js").PassengerMessage} message */
  #receive(message) {
    const outcome = this.#feed.receive(message, Date.now());
    if (outcome === "gap") {
      this.#feed.forget();
      this.#connection.restart();
      return;
    }
    if (outcome !== "applied") return;
    switch (message.type) {
      case "snapshot":
        this.#showLive();
        if (message.since === undefined) this.#map.takeSnapshot();
        else this.#map.continue();
        for (const missed of this.#feed.missedMessages) this.#notices.addMessage(missed);
        break;
      case "resumed":
        this.#showLive();
        break;
      case "position":
        this.#map.takePosition(message);
        break;
      case "trip":
        if (!this.#feed.position) this.#map.forgetCar();
        break;
      case "message":
        this.#notices.addMessage(message);
        this.#map.arrange();
        return;
    }
    this.#update();
  }

  /** Shows the present state. It is called every second and after each change. */
  #update() {
    const { trip, position, clock } = this.#feed;
    if (!trip) return;
    const now = clock.at(Date.now());
    const age = position ? Math.max(now - Math.min(position.fix_time, position.server_time), 0) : null;
    this.stale = age !== null && age > this.#staleAfter;
    this.#map.showTrip(trip, this.stale);
    this.#panel.showTrip(trip);
    this.#panel.showProgress(this.#feed, now);
    this.#panel.showAge(age, this.stale, this.live, trip);
    if (OVER.has(trip.status)) this.#end("over");
    if (!this.ending) this.#map.draw();
  }

  /** @param {Ending} why */
  #end(why) {
    const first = this.ending === null;
    this.ending = why;
    this.live = false;
    this.#notices.showLive();
    document.body.classList.toggle("bare", !this.#feed.trip);
    this.#panel.showEnding(why, this.#feed.trip);
    if (!first) return;
    this.#copyButton.hidden = true;
    this.#map.end(why === "over");
  }
}
