import { byId, h, write } from "../../shared/dom.js";
import { isolated } from "../../shared/format.js";
import { near } from "../../shared/geo.js";
import { CarMarker } from "../../shared/markers.js";
import { distanceText, kilometresPerHour } from "../labels.js";
import { reasonOf } from "../state/api.js";
import { Playback, RATES } from "../state/playback.js";
import { parseTrack, Recording } from "../state/recording.js";
import { SpeedChart } from "./speed_chart.js";

const HOUR = 3_600_000;

/** Replays a past drive on the map and in a chart of its speed. */
export class Replay {
  playback = new Playback();

  #api;
  #map;
  #root = byId("replay");
  #vehicleId = "";
  #recording = new Recording([]);
  #car = new CarMarker();
  #lines = L.layerGroup();
  #driven = L.polyline([], { className: "track", interactive: false, weight: 5 });
  #chart = new SpeedChart((time) => this.#seek(time));
  #frame = 0;
  #drawn = -1;
  #asked = 0;
  #onOpen;

  #title = h("h2", { tabindex: "-1" });
  #from = h("input", { type: "datetime-local", step: 1, "aria-label": "From" });
  #to = h("input", { type: "datetime-local", step: 1, "aria-label": "To" });
  #problem = h("p", { class: "problem", role: "status" });
  #play = h("button", { type: "button", class: "play main", "aria-label": "Play", onclick: () => this.toggle() }, "▶");
  #scrubber = h("input", { type: "range", class: "scrubber", "aria-label": "Place in the drive", min: 0, max: 1, value: 0, step: 1_000, oninput: () => this.#seek(Number(this.#scrubber.value)) });
  #rate = h("select", { class: "rate", "aria-label": "Speed of the replay", onchange: () => (this.playback.rate = Number(this.#rate.value)) }, ...RATES.map((rate) => h("option", { value: rate, selected: rate === this.playback.rate }, `${rate}×`)));
  #clock = h("output", { class: "clock" });
  #speed = h("output", { class: "speed" });
  #stage = h("div", { class: "replay-stage", hidden: true });

  /**
   * @param {import("../state/api.js").Api} api
   * @param {import("../map/map.js").FleetMap} map
   * @param {(open: boolean) => void} onOpen
   */
  constructor(api, map, onOpen) {
    this.#api = api;
    this.#map = map;
    this.#onOpen = onOpen;
    const preset = (/** @type {string} */ words, /** @type {() => number} */ since) => h("button", { type: "button", class: "preset", onclick: () => this.#loadSince(since()) }, words);
    const midnight = () => new Date().setHours(0, 0, 0, 0);
    const form = h("form", { class: "span", onsubmit: (/** @type {Event} */ event) => (event.preventDefault(), this.#load()) }, this.#from, h("span", { "aria-hidden": "true" }, "–"), this.#to, h("button", { type: "submit", class: "load" }, "Load"));
    const exports = h("span", { class: "exports" }, ...["gpx", "csv"].map((format) => h("button", { type: "button", class: "plain export", "data-format": format, onclick: () => this.#export(/** @type {"gpx" | "csv"} */ (format)) }, format.toUpperCase())));
    this.#stage.append(h("div", { class: "transport" }, this.#play, this.#scrubber, this.#rate, this.#clock, this.#speed, exports), this.#chart.element);
    this.#root.append(
      h("div", { class: "replay-head" }, this.#title, h("span", { class: "presets" }, preset("Last hour", () => Date.now() - HOUR), preset("Today", midnight)), form, h("button", { type: "button", class: "plain close", "aria-label": "Close the replay", onclick: () => this.close() }, "×")),
      this.#problem,
      this.#stage,
    );
    map.keepNear(this.#lines);
    this.#root.addEventListener("keydown", (event) => this.#pressed(event));
  }

  get open() {
    return !this.#root.hidden;
  }

  get vehicleId() {
    return this.open ? this.#vehicleId : null;
  }

  get length() {
    return this.#recording.samples.length;
  }

  /** The position of the replayed vehicle, for tests and embedding pages. */
  get shown() {
    return this.open ? this.#recording.at(this.playback.time) : null;
  }

  /** @param {string} vehicleId @param {string} name */
  begin(vehicleId, name) {
    this.#vehicleId = vehicleId;
    write(this.#title, `Replay · ${isolated(name)}`);
    this.#root.hidden = false;
    document.body.classList.add("with-replay");
    this.#onOpen(true);
    this.#title.focus({ preventScroll: true });
    return this.#loadSince(Date.now() - HOUR);
  }

  close() {
    if (!this.open) return;
    this.#forget();
    this.#root.hidden = true;
    document.body.classList.remove("with-replay");
    this.#onOpen(false);
  }

  toggle() {
    if (this.playback.playing) this.playback.pause();
    else this.playback.play(performance.now());
    this.#run();
  }

  /** @param {number} since */
  #loadSince(since) {
    this.#from.value = localText(since);
    // The fields have whole seconds. One is added, so that the present second is included.
    this.#to.value = localText(Date.now() + 1_000);
    return this.#load();
  }

  async #load() {
    const span = this.#span();
    const asked = ++this.#asked;
    this.#forget();
    if (!span) {
      this.#problem.textContent = "The end must come after the beginning.";
      return;
    }
    this.#problem.textContent = "Loading…";
    try {
      const text = await (await this.#api.track(this.#vehicleId, span.from, span.to, "csv")).text();
      if (asked !== this.#asked || !this.open) return;
      this.#take(new Recording(parseTrack(text)));
    } catch (error) {
      if (asked === this.#asked) this.#problem.textContent = reasonOf(error);
    }
  }

  /** @param {Recording} recording */
  #take(recording) {
    this.#recording = recording;
    const { samples } = recording;
    this.#problem.textContent = recording.isEmpty ? "Nothing was recorded in this time." : `${samples.length} positions · ${distanceText(recording.length)}`;
    this.#stage.hidden = recording.isEmpty;
    if (recording.isEmpty) return;
    this.playback.load(recording.from, recording.to);
    Object.assign(this.#scrubber, { min: String(recording.from), max: String(recording.to), value: String(recording.from) });
    const whole = L.polyline(recording.linesUntil(samples.length - 1, this.#map.middle), { className: "route", interactive: false, weight: 5 });
    this.#lines.clearLayers();
    this.#lines.addLayer(whole).addLayer(this.#driven).addTo(this.#map.leaflet);
    this.#chart.show(recording);
    this.#map.fit(whole.getBounds());
    this.#draw();
  }

  #forget() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.playback.load(0, 0);
    this.#recording = new Recording([]);
    this.#drawn = -1;
    this.#car.hide();
    this.#lines.remove();
    this.#driven.setLatLngs([]);
    this.#chart.clear();
    this.#stage.hidden = true;
  }

  /** @param {number} time */
  #seek(time) {
    this.playback.seek(time);
    this.#draw();
  }

  #run() {
    this.#draw();
    cancelAnimationFrame(this.#frame);
    if (!this.playback.playing) return;
    this.#frame = requestAnimationFrame((now) => {
      this.playback.tick(now);
      this.#run();
    });
  }

  #draw() {
    const { time, playing } = this.playback;
    const moment = this.#recording.at(time);
    if (!moment) return;
    if (moment.index !== this.#drawn) {
      this.#drawn = moment.index;
      this.#driven.setLatLngs(this.#recording.linesUntil(moment.index, this.#map.middle));
    }
    // The car is at the end of its line, in the same copy of the world.
    const driven = /** @type {L.LatLng[][]} */ (this.#driven.getLatLngs());
    const longitude = near(moment.longitude, driven.at(-1)?.at(-1)?.lng ?? this.#map.middle);
    this.#car.show(this.#map.leaflet, { ...moment, longitude, settled: true });
    this.#scrubber.value = String(time);
    this.#chart.mark(time);
    const at = new Date(time).toLocaleTimeString([], { hour: "numeric", minute: "2-digit", second: "2-digit" });
    write(this.#clock, at);
    this.#scrubber.setAttribute("aria-valuetext", at);
    write(this.#speed, moment.speed === null ? "" : kilometresPerHour(moment.speed));
    write(this.#play, playing ? "❚❚" : "▶");
    this.#play.setAttribute("aria-label", playing ? "Pause" : "Play");
    if (playing && !this.#map.shows(moment)) this.#map.leaflet.panTo([moment.latitude, longitude]);
  }

  /** @param {KeyboardEvent} event */
  #pressed(event) {
    const { target } = event;
    if (event.key !== " " || this.#recording.isEmpty) return;
    // A button or a field uses the space bar itself.
    if (target instanceof HTMLElement && target.matches("button, select, input:not([type=range])")) return;
    event.preventDefault();
    this.toggle();
  }

  #span() {
    const from = new Date(this.#from.value).getTime();
    const to = new Date(this.#to.value).getTime();
    return Number.isFinite(from) && Number.isFinite(to) && from < to ? { from, to } : null;
  }

  /** Downloads the track as a file. A plain link can't carry the token. @param {"gpx" | "csv"} format */
  async #export(format) {
    const span = this.#span();
    if (!span) return;
    try {
      const address = URL.createObjectURL(await this.#api.track(this.#vehicleId, span.from, span.to, format));
      h("a", { href: address, download: `${this.#vehicleId}.${format}` }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
    } catch (error) {
      this.#problem.textContent = reasonOf(error);
    }
  }
}

/** An instant in the form of a datetime-local field: local time without a zone. @param {number} instant */
function localText(instant) {
  return new Date(instant - new Date(instant).getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}
