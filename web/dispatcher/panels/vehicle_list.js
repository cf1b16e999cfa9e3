import { byId, h, write } from "../../shared/dom.js";
import { ago } from "../../shared/format.js";
import { clockText, kilometresPerHour, VEHICLE_STATUS } from "../labels.js";
import { glyphIcon } from "../map/glyphs.js";

/** @typedef {import("../state/roster.js").Listed & {speed: number | null, kind: string}} ListedVehicle */
/** @typedef {{heading: string} | {vehicle: ListedVehicle, away: boolean}} Line `away`: not in view, found by the hub */

const LINE_HEIGHT = 52;
/** Lines that are prepared above and below the visible ones. */
const SPARE = 4;

/** The list beside the map. Only visible lines have elements, because there may be thousands. */
export class VehicleList {
  /** @type {Line[]} */
  lines = [];
  /** @type {string | null} */
  selected = null;

  #box = byId("list");
  #space = h("div", { class: "space" });
  /** @type {Map<number, Row>} */
  #rows = new Map();
  /** @type {string | null} */
  #active = null;
  #now = () => 0;
  #onSelect;

  /**
   * @param {() => number} now the hub's time
   * @param {(vehicle: ListedVehicle) => void} onSelect
   */
  constructor(now, onSelect) {
    this.#now = now;
    this.#onSelect = onSelect;
    this.#box.append(this.#space);
    this.#box.addEventListener("scroll", () => this.#draw(), { passive: true });
    this.#box.addEventListener("click", (event) => this.#clicked(event));
    this.#box.addEventListener("keydown", (event) => this.#pressed(event));
    new ResizeObserver(() => this.#draw()).observe(this.#box);
  }

  /** @param {Line[]} lines */
  show(lines) {
    this.lines = lines;
    this.#space.style.height = `${lines.length * LINE_HEIGHT}px`;
    this.#draw();
  }

  /** @param {string | null} id */
  select(id) {
    this.selected = id;
    if (id !== null) {
      this.#active = id;
      this.#reveal(this.#indexOf(id));
    }
    this.#draw();
  }

  focus() {
    this.#box.focus();
    if (this.#indexOf(this.#active) < 0) this.#activate(this.#step(-1, 1));
  }

  #draw() {
    const first = Math.max(Math.floor(this.#box.scrollTop / LINE_HEIGHT) - SPARE, 0);
    const last = Math.min(Math.ceil((this.#box.scrollTop + this.#box.clientHeight) / LINE_HEIGHT) + SPARE, this.lines.length);
    for (const [index, row] of this.#rows) {
      if (index >= first && index < last) continue;
      row.element.remove();
      this.#rows.delete(index);
    }
    for (let index = first; index < last; index += 1) {
      let row = this.#rows.get(index);
      if (!row) {
        row = new Row(index);
        this.#rows.set(index, row);
        this.#space.append(row.element);
      }
      const line = this.lines[index];
      const id = "vehicle" in line ? line.vehicle.id : null;
      row.show(line, { selected: id !== null && id === this.selected, active: id !== null && id === this.#active, count: this.lines.length, now: this.#now() });
    }
    const active = this.#rows.get(this.#indexOf(this.#active));
    if (active) this.#box.setAttribute("aria-activedescendant", active.element.id);
    else this.#box.removeAttribute("aria-activedescendant");
  }

  /** @param {string | null} id */
  #indexOf(id) {
    return id === null ? -1 : this.lines.findIndex((line) => "vehicle" in line && line.vehicle.id === id);
  }

  /** The next line with a vehicle from `index` on, or -1. @param {number} index @param {number} by */
  #step(index, by) {
    const way = Math.sign(by);
    const next = Math.min(Math.max(index + by, 0), this.lines.length - 1);
    if ("vehicle" in (this.lines[next] ?? {})) return next;
    return "vehicle" in (this.lines[next + way] ?? {}) ? next + way : index;
  }

  /** @param {number} index */
  #activate(index) {
    const line = this.lines[index];
    if (!line || !("vehicle" in line)) return;
    this.#active = line.vehicle.id;
    this.#reveal(index);
    this.#draw();
  }

  /** @param {number} index */
  #reveal(index) {
    if (index < 0) return;
    const top = index * LINE_HEIGHT;
    if (top < this.#box.scrollTop) this.#box.scrollTop = top;
    else if (top + LINE_HEIGHT > this.#box.scrollTop + this.#box.clientHeight) this.#box.scrollTop = top + LINE_HEIGHT - this.#box.clientHeight;
  }

  /** @param {Event} event */
  #clicked({ target }) {
    const option = /** @type {Element} */ (target).closest("[role=option]");
    const line = this.lines[Number(option?.id.slice(5) || NaN)];
    if (!line || !("vehicle" in line)) return;
    this.#active = line.vehicle.id;
    this.#onSelect(line.vehicle);
  }

  /** @param {KeyboardEvent} event */
  #pressed(event) {
    const page = Math.max(Math.floor(this.#box.clientHeight / LINE_HEIGHT) - 1, 1);
    /** @type {Record<string, number>} */
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -this.lines.length, End: this.lines.length };
    if (event.key === "Enter") {
      const line = this.lines[this.#indexOf(this.#active)];
      if (line && "vehicle" in line) this.#onSelect(line.vehicle);
    } else if (event.key in steps) {
      const at = this.#indexOf(this.#active);
      this.#activate(at < 0 ? this.#step(-1, 1) : this.#step(at, steps[event.key]));
    } else {
      return;
    }
    event.preventDefault();
  }
}

/** The elements of one line. They are created once and then updated. */
class Row {
  #glyph = h("span", { class: "row-glyph" });
  #name = h("span", { class: "row-name" });
  #plate = h("span", { class: "row-plate" });
  #state = h("span", { class: "row-state" });
  #speed = h("span", { class: "row-speed" });
  #shape = "";

  /** @param {number} index */
  constructor(index) {
    this.index = index;
    this.element = h("div", { id: `line-${index}` }, this.#glyph, this.#name, this.#plate, this.#state, this.#speed);
    this.element.style.transform = `translateY(${index * LINE_HEIGHT}px)`;
  }

  /** @param {Line} line @param {{selected: boolean, active: boolean, count: number, now: number}} state */
  show(line, { selected, active, count, now }) {
    const { element } = this;
    const heading = "heading" in line;
    element.className = heading ? "row-heading" : `row${line.away ? " away" : ""}${active ? " active" : ""}`;
    element.setAttribute("role", heading ? "presentation" : "option");
    element.setAttribute("aria-selected", String(selected));
    element.setAttribute("aria-setsize", String(count));
    element.setAttribute("aria-posinset", String(this.index + 1));
    write(this.#name, heading ? line.heading : line.vehicle.name);
    write(this.#plate, heading ? "" : line.vehicle.plate);
    write(this.#state, heading ? "" : stateOf(line.vehicle, now));
    write(this.#speed, heading || line.vehicle.speed === null || line.vehicle.status === "lost" ? "" : kilometresPerHour(line.vehicle.speed));
    const shape = heading ? "" : line.vehicle.status;
    if (shape === this.#shape) return;
    this.#shape = shape;
    this.#glyph.replaceChildren(...(heading ? [] : [glyphIcon(line.vehicle.status)]));
  }
}

/** @param {ListedVehicle} vehicle @param {number} now */
function stateOf({ status, clockSkew, fixTime }, now) {
  const words = [fixTime === null ? "No position yet" : VEHICLE_STATUS[status]];
  if (clockSkew) words.push(clockText(clockSkew));
  else if (status === "lost" && fixTime !== null) words.push(ago(now - fixTime));
  return words.join(" · ");
}
