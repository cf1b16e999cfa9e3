import { h } from "../../shared/dom.js";

/** @typedef {import("../state/recording.js").Recording} Recording */

const HEIGHT = 108;
/** More points than this can't be told apart. */
const MAX_POINTS = 4_000;

/** Speed over time, with a line at the replay's instant. A click or a drag moves the replay. */
export class SpeedChart {
  element = h("div", { class: "chart" });

  #playhead = h("div", { class: "playhead", "aria-hidden": "true" });
  /** @type {import("uplot") | null} */
  #plot = null;
  /** @type {Recording | null} */
  #recording = null;
  #time = 0;
  #onSeek;

  /** @param {(time: number) => void} onSeek */
  constructor(onSeek) {
    this.#onSeek = onSeek;
    new ResizeObserver(() => this.#fit()).observe(this.element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#recording && this.show(this.#recording));
  }

  /** @param {Recording} recording */
  show(recording) {
    this.clear();
    this.#recording = recording;
    const style = getComputedStyle(this.element);
    const [accent, soft, faint] = ["accent", "soft", "faint"].map((name) => style.getPropertyValue(`--${name}`).trim());
    const font = `11px ${style.fontFamily}`;
    const axis = { stroke: soft, font, grid: { stroke: faint, width: 1 }, ticks: { show: false } };
    const plot = new uPlot(
      {
        width: Math.max(this.element.clientWidth, 120),
        height: HEIGHT,
        padding: [8, 4, 0, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
        scales: { x: { time: true }, y: { range: (_plot, _low, high) => [0, Math.max(high * 1.1, 10)] } },
        axes: [{ ...axis, size: 26, space: 96, values: timesOf }, { ...axis, size: 36, space: 24 }],
        series: [{}, { stroke: accent, width: 1.5, fill: `color-mix(in srgb, ${accent} 14%, transparent)`, points: { show: false } }],
      },
      seriesOf(recording),
      this.element,
    );
    this.#plot = plot;
    plot.over.append(this.#playhead, h("span", { class: "unit" }, "km/h"));
    const seek = (/** @type {PointerEvent} */ event) => this.#onSeek(plot.posToVal(event.clientX - plot.over.getBoundingClientRect().left, "x") * 1_000);
    plot.over.addEventListener("pointerdown", (event) => {
      plot.over.setPointerCapture(event.pointerId);
      seek(event);
    });
    plot.over.addEventListener("pointermove", (event) => event.buttons && seek(event));
    this.mark(recording.from);
  }

  /** Marks the replay's instant. @param {number} time */
  mark(time) {
    this.#time = time;
    if (this.#plot) this.#playhead.style.transform = `translateX(${this.#plot.valToPos(time / 1_000, "x")}px)`;
  }

  clear() {
    this.#plot?.destroy();
    this.#plot = this.#recording = null;
  }

  #fit() {
    const width = this.element.clientWidth;
    if (!this.#plot || width < 120 || width === this.#plot.width) return;
    this.#plot.setSize({ width, height: HEIGHT });
    this.mark(this.#time);
  }
}

/** @param {unknown} _plot @param {number[]} splits seconds */
function timesOf(_plot, splits) {
  const seconds = splits.length > 1 && splits[1] - splits[0] < 60;
  return splits.map((at) => new Date(at * 1_000).toLocaleTimeString([], { hour: "numeric", minute: "2-digit", ...(seconds && { second: "2-digit" }) }));
}

/**
 * The speeds in km/h. For very many, the highest of each short interval. Gaps stay empty.
 * @param {Recording} recording
 * @returns {[number[], (number | null)[]]}
 */
function seriesOf(recording) {
  const step = Math.ceil(recording.samples.length / MAX_POINTS);
  /** @type {number[]} */
  const times = [];
  /** @type {(number | null)[]} */
  const speeds = [];
  for (const stretch of recording.stretchesUntil(recording.samples.length - 1)) {
    if (times.length) {
      times.push(stretch[0].fixTime / 1_000 - 1);
      speeds.push(null);
    }
    for (let at = 0; at < stretch.length; at += step) {
      const few = stretch.slice(at, at + step).map(({ speed }) => speed).filter((speed) => speed !== null);
      times.push(stretch[at].fixTime / 1_000);
      speeds.push(few.length ? Math.max(...few) * 3.6 : null);
    }
  }
  return [times, speeds];
}
