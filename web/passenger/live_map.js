import { byId } from "../shared/dom.js";
import { Motion } from "../shared/motion.js";
import { followReducedMotion } from "../shared/page_life.js";
import { TripMap } from "./map.js";

/** @typedef {import("../shared/messages.js").Trip} Trip */

const GOAL_IS_PICKUP = new Set(["new", "enroute_to_pickup", "arrived_at_pickup"]);

/** Shows a feed on the map. It moves the car from fix to fix, draws a frame while it moves, and directs the camera. */
export class LiveMap {
  /** The place at which the car is drawn. @type {import("../shared/motion.js").Shown | null} */
  shown = null;

  #feed;
  #map;
  #motion = new Motion();
  #followButton = byId("follow");
  /** Whether the camera has framed the present things. */
  #framed = false;
  #frameRequest = 0;
  /** @type {"" | "pickup" | "dropoff"} */
  #goal = "";
  #ended = false;

  /**
   * @param {import("./feed.js").Feed} feed
   * @param {import("../shared/basemap.js").BasemapSettings | undefined} basemap
   */
  constructor(feed, basemap) {
    this.#feed = feed;
    this.#map = new TripMap(byId("map"), basemap, () => this.#setFollow(false));
    followReducedMotion((reduced) => (this.#motion.reduced = this.#map.camera.reduced = reduced));
    new ResizeObserver(() => this.arrange()).observe(byId("panel"));
    addEventListener("resize", () => this.arrange());
    this.#followButton.addEventListener("click", () => this.#setFollow(true));
  }

  get follow() {
    return this.#map.camera.follow;
  }

  /** Moves the car on from where it is shown, unless the snapshot has no position or an older one. */
  takeSnapshot() {
    const { position, track } = this.#feed;
    if (!position || (this.shown && position.fix_time < this.shown.time)) this.#motion.clear();
    if (position) this.#motion.push(position, performance.now(), track.heading);
    else this.shown = null;
  }

  /** Moves the car on after a snapshot that adds to what is shown. It never goes back. */
  continue() {
    if (this.#feed.position) this.takePosition(this.#feed.position);
    else this.forgetCar();
  }

  /** @param {import("../shared/messages.js").Position} position */
  takePosition(position) {
    this.#motion.push(position, performance.now());
  }

  /** Removes the car, when its position is unknown or the vehicle has changed. */
  forgetCar() {
    this.shown = null;
    this.#motion.clear();
  }

  /** @param {Trip} trip @param {boolean} stale whether the car's position is old */
  showTrip(trip, stale) {
    this.#map.stale = stale;
    this.#map.showTrip(trip);
  }

  /** Draws the state as it is now. */
  draw() {
    if (this.#feed.position) this.#requestFrame();
    else this.#map.showTrack(this.#feed.track);
    this.#look();
  }

  /** Stops. @param {boolean} keep whether the whole trip stays visible */
  end(keep) {
    this.#ended = true;
    this.forgetCar();
    this.#followButton.hidden = true;
    const { trip, track } = this.#feed;
    if (!keep) this.#map.forget();
    else if (trip) {
      this.#map.showTrack(track);
      this.arrange();
      this.#map.camera.frame([...placesOf(trip), ...track.points.map(([longitude, latitude]) => ({ latitude, longitude }))]);
    }
  }

  /** Tells the camera and the credits which part of the map the panel covers. */
  arrange() {
    const panel = byId("panel").getBoundingClientRect();
    const notices = byId("notices").getBoundingClientRect();
    const beside = panel.width < innerWidth * 0.6;
    const covered = Math.max(innerHeight - panel.top, 0);
    this.#map.camera.margins = beside
      ? { top: 56, right: 72, bottom: 56, left: panel.right + 56 }
      : { top: Math.max(72, notices.bottom + 28), right: 56, bottom: covered + 68, left: 56 };
    document.documentElement.style.setProperty("--covered", beside ? "0px" : `${covered}px`);
  }

  /** Directs the camera at the car and its goal, or at the trip's places while there is no car. */
  #look() {
    const { trip } = this.#feed;
    if (!trip) return;
    const { camera } = this.#map;
    const next = GOAL_IS_PICKUP.has(trip.status) ? "pickup" : "dropoff";
    const must = !this.#framed || next !== this.#goal;
    this.#goal = next;
    this.arrange();
    if (this.shown) camera.attend(this.shown, trip[next], performance.now(), must);
    else if (must) camera.frame(placesOf(trip));
    this.#framed = true;
    this.#followButton.hidden = camera.follow || !this.shown;
  }

  /** @param {boolean} follow */
  #setFollow(follow) {
    const { trip } = this.#feed;
    const { camera } = this.#map;
    camera.follow = follow;
    this.#followButton.hidden = follow || !this.shown;
    if (follow && this.shown && trip) camera.attend(this.shown, this.#goal === "pickup" ? trip.pickup : trip.dropoff, performance.now(), true);
  }

  #requestFrame() {
    this.#frameRequest ||= requestAnimationFrame((now) => this.#drawFrame(now));
  }

  /** @param {number} now */
  #drawFrame(now) {
    this.#frameRequest = 0;
    if (this.#ended) return;
    const before = this.shown;
    this.shown = this.#motion.frame(now);
    if (!this.shown) return;
    // The camera framed only the places at first. Now there is a car.
    if (!before) this.#framed = false;
    if (!this.#framed) this.#look();
    this.#map.show(this.shown, this.#feed.track);
    if (!this.shown.settled) this.#requestFrame();
  }
}

/** @param {Trip} trip */
function placesOf({ pickup, stops = [], dropoff }) {
  return [pickup, ...stops, dropoff];
}
