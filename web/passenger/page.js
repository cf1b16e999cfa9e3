/** The passenger's page: reads the link, and joins connection, feed, motion, map and panel. */

import { Connection } from "../shared/connection.js";
import { Feed } from "./feed.js";
import { hubAddress, socketAddress } from "../shared/hub.js";
import { copyLink, takeToken } from "../shared/link.js";
import { TripMap } from "./map.js";
import { decodeForPassenger } from "../shared/messages.js";
import { Motion } from "../shared/motion.js";
import { Notices } from "./notices.js";
import { Panel } from "./panel.js";

/** @typedef {import("../shared/close_codes.js").Ending} Ending */

const ONLINE_PATIENCE = 5_000;
const GOAL_IS_PICKUP = new Set(["new", "enroute_to_pickup", "arrived_at_pickup"]);
const OVER = new Set(["complete", "canceled"]);

const token = takeToken();

/** What the hub says of how the page is set up. @returns {Promise<{basemap?: import("../shared/basemap.js").BasemapSettings, stale_after?: number}>} */
async function readSettings() {
  try {
    const answer = await fetch(hubAddress("web-config.json"));
    return answer.ok ? await answer.json() : {};
  } catch {
    // A page without a map still says who comes and when.
    return {};
  }
}

/** @param {Awaited<ReturnType<typeof readSettings>>} settings */
function start(settings) {
  const staleAfter = (settings.stale_after ?? 30) * 1_000;
  const tripId = location.pathname.split("/").filter(Boolean).at(-1) ?? "";

  const feed = new Feed();
  const motion = new Motion();
  const panel = new Panel();
  const notices = new Notices();
  const followButton = /** @type {HTMLButtonElement} */ (document.getElementById("follow"));
  const copyButton = /** @type {HTMLButtonElement} */ (document.getElementById("copy-link"));
  const map = new TripMap(/** @type {HTMLElement} */ (document.getElementById("map")), settings.basemap, () => setFollow(false));
  const { camera } = map;

  /** @type {import("../shared/motion.js").Shown | null} */
  let shown = null;
  /** @type {Ending | null} */
  let ending = null;
  let stale = false;
  let live = false;
  let framed = false;
  let frameRequest = 0;
  let goal = "";

  const serverNow = () => feed.clock.at(Date.now());
  const url = socketAddress(`v1/trips/${encodeURIComponent(tripId)}/live`);
  const connection = new Connection({
    url,
    token,
    cursor: () => feed.cursor,
    onOpen: () => feed.begin(),
    onFrame: (frame) => receive(decodeForPassenger(frame)),
    onState: (state, why) => {
      if (why) end(why);
      else if (state !== "open") showDown();
    },
  });

  /** Up means that the feed goes on, not that a socket stands: a hub in trouble may take one only to close it. */
  function showLive() {
    live = true;
    notices.showLive();
  }

  function showDown() {
    live = false;
    if (ending) return;
    const trying = feed.trip ? "Reconnecting…" : "Trying to connect…";
    notices.showDown(navigator.onLine ? trying : "You’re offline. The map goes on when the network is back.");
  }

  /** @param {import("../shared/messages.js").PassengerMessage} message */
  function receive(message) {
    const outcome = feed.receive(message, Date.now());
    if (outcome === "gap") {
      feed.forget();
      connection.restart();
      return;
    }
    if (outcome !== "applied") return;
    switch (message.type) {
      case "snapshot":
        showLive();
        takeSnapshot();
        break;
      case "resumed":
        showLive();
        break;
      case "position":
        motion.push(message, performance.now());
        break;
      case "trip":
        if (!feed.position) forgetCar();
        break;
      case "message":
        notices.addMessage(message);
        arrange();
        return;
    }
    update();
  }

  /** The car glides on from where it is shown, unless the snapshot knows of none, or only of an older place. */
  function takeSnapshot() {
    const { position } = feed;
    if (!position || (shown && position.fix_time < shown.time)) motion.clear();
    if (position) motion.push(position, performance.now(), feed.track.heading);
    else shown = null;
  }

  /** Nobody knows where the vehicle is, or it is another one now. */
  function forgetCar() {
    shown = null;
    motion.clear();
  }

  /** Shows the state as it is now; every second, and after whatever has changed it. */
  function update() {
    const { trip, position } = feed;
    if (!trip) return;
    const age = position ? Math.max(serverNow() - Math.min(position.fix_time, position.server_time), 0) : null;
    stale = age !== null && age > staleAfter;
    map.stale = stale;
    map.showTrip(trip);
    panel.showTrip(trip);
    panel.showProgress(feed, serverNow());
    panel.showAge(age, stale, live, trip);
    if (OVER.has(trip.status)) end("over");
    if (ending) return;
    if (position) requestFrame();
    else map.showTrack(feed.track);
    look();
  }

  /** @param {Ending} why */
  function end(why) {
    const first = ending === null;
    ending = why;
    live = false;
    notices.showLive();
    document.body.classList.toggle("bare", !feed.trip);
    panel.showEnding(why, feed.trip);
    if (!first) return;
    forgetCar();
    followButton.hidden = copyButton.hidden = true;
    if (why !== "over") map.forget();
    else if (feed.trip) {
      map.showTrack(feed.track);
      arrange();
      map.camera.frame([...whereabouts(), ...feed.track.points.map(([longitude, latitude]) => ({ latitude, longitude }))]);
    }
  }

  const whereabouts = () => (feed.trip ? [feed.trip.pickup, ...(feed.trip.stops ?? []), feed.trip.dropoff] : []);

  /** Points the camera: at the car and its goal, or at the trip's places while there is no car. */
  function look() {
    const { trip } = feed;
    if (!trip) return;
    const next = GOAL_IS_PICKUP.has(trip.status) ? "pickup" : "dropoff";
    const must = !framed || next !== goal;
    goal = next;
    arrange();
    if (shown) camera.attend(shown, trip[next], performance.now(), must);
    else if (must) camera.frame(whereabouts());
    framed = true;
    followButton.hidden = camera.follow || !shown;
  }

  /** @param {boolean} follow */
  function setFollow(follow) {
    camera.follow = follow;
    followButton.hidden = follow || !shown;
    if (follow && shown && feed.trip) {
      camera.attend(shown, goal === "pickup" ? feed.trip.pickup : feed.trip.dropoff, performance.now(), true);
    }
  }

  function requestFrame() {
    frameRequest ||= requestAnimationFrame(drawFrame);
  }

  /** @param {number} now */
  function drawFrame(now) {
    frameRequest = 0;
    if (ending) return;
    const before = shown;
    shown = motion.frame(now);
    if (!shown) return;
    // The camera's first look was at the places alone; now there is a car to look at.
    if (!before) framed = false;
    if (!framed) look();
    map.show(shown, feed.track);
    if (!shown.settled) requestFrame();
  }

  /** Tells the camera and the credits which part of the map the panel covers. */
  function arrange() {
    const box = /** @type {HTMLElement} */ (document.getElementById("panel")).getBoundingClientRect();
    const notes = /** @type {HTMLElement} */ (document.getElementById("notices")).getBoundingClientRect();
    const beside = box.width < innerWidth * 0.6;
    const covered = Math.max(innerHeight - box.top, 0);
    camera.margins = beside
      ? { top: 56, right: 72, bottom: 56, left: box.right + 56 }
      : { top: Math.max(72, notes.bottom + 28), right: 56, bottom: covered + 68, left: 56 };
    document.documentElement.style.setProperty("--covered", beside ? "0px" : `${covered}px`);
  }

  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const heedCalm = () => (motion.reduced = camera.reduced = calm.matches);
  heedCalm();
  calm.addEventListener("change", heedCalm);
  new ResizeObserver(arrange).observe(/** @type {HTMLElement} */ (document.getElementById("panel")));
  addEventListener("resize", arrange);
  copyButton.addEventListener("click", () => copyLink(token, copyButton));
  followButton.addEventListener("click", () => setFollow(true));
  addEventListener("online", () => connection.wake(ONLINE_PATIENCE));
  addEventListener("offline", showDown);
  addEventListener("hashchange", () => location.reload());
  addEventListener("pagehide", () => connection.sleep());
  addEventListener("pageshow", () => connection.wake());
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && connection.wake());
  setInterval(() => !ending && update(), 1_000);

  const view = {
    get state() {
      return {
        connection: connection.state,
        live,
        ending,
        status: feed.trip?.status ?? null,
        epoch: feed.cursor?.epoch ?? null,
        offset: feed.cursor?.offset ?? null,
        position: feed.position && { ...feed.position },
        stale,
      };
    },
    get displayed() {
      return shown && { ...shown };
    },
    get line() {
      return feed.track.points.map((point) => [...point]);
    },
    get lineLength() {
      return feed.track.points.length;
    },
    get follow() {
      return camera.follow;
    },
  };
  Object.defineProperty(window, "tracking", { value: Object.freeze(view) });

  copyButton.hidden = !token;
  if (token) connection.open();
  else end("incomplete");
}

start(await readSettings());
