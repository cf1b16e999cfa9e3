import { shortened } from "../../shared/text.js";
import { coloursOf, Glyphs } from "./glyphs.js";

/** @typedef {{vehicle: import("../state/vehicles.js").Vehicle, x: number, y: number}} Placed a vehicle and the pixel that it is at */

/** Above this number, or below this zoom, glyphs are smaller, so that they don't hide each other. */
const MANY = 400;
const FAR_ZOOM = 11;
const SMALL = 0.68;
const NAMES_FROM_ZOOM = 14;
const MAX_NAMES = 80;
const MAX_LETTERS = 32;
const FONT = "600 12px system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', Arial, sans-serif";

/** Draws vehicles and clusters at given pixels, in the page's present colours. */
export class Painter {
  #context;
  #colours;
  #normal;
  #small;

  /** @param {CanvasRenderingContext2D} context whose unit is a pixel of the page @param {HTMLElement} element @param {number} ratio */
  constructor(context, element, ratio) {
    this.#context = context;
    this.#colours = coloursOf(element);
    this.#normal = new Glyphs(this.#colours, 1, ratio);
    this.#small = new Glyphs(this.#colours, SMALL, ratio);
  }

  /**
   * @param {Placed[]} placed
   * @param {{zoom: number, selected: string | null, hovered: string | null, faded: boolean}} view
   */
  drawVehicles(placed, { zoom, selected, hovered, faded }) {
    const context = this.#context;
    const glyphs = placed.length > MANY || zoom < FAR_ZOOM ? this.#small : this.#normal;
    /** @type {Placed[]} */
    const distinct = [];
    context.globalAlpha = faded ? 0.35 : 1;
    for (const place of placed) {
      const { vehicle, x, y } = place;
      if (vehicle.id === selected || vehicle.id === hovered) distinct.push(place);
      else glyphs.draw(context, vehicle.status, vehicle.bearing, x, y);
    }
    context.globalAlpha = 1;
    const named = zoom >= NAMES_FROM_ZOOM && placed.length <= MAX_NAMES && !faded;
    for (const { vehicle, x, y } of named ? placed : []) this.#label(vehicle.name, x, y);
    for (const { vehicle, x, y } of distinct) {
      this.#halo(x, y, vehicle.id === selected);
      this.#normal.draw(context, vehicle.status, vehicle.bearing, x, y);
      this.#label(vehicle.name, x, y);
    }
  }

  /** @param {{x: number, y: number, count: number}[]} clusters */
  drawClusters(clusters) {
    const context = this.#context;
    context.font = FONT;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.strokeStyle = this.#colours.edge;
    context.lineWidth = 2;
    for (const { x, y, count } of clusters) {
      context.beginPath();
      context.arc(x, y, clusterRadius(count), 0, 2 * Math.PI);
      context.fillStyle = this.#colours.cluster;
      context.fill();
      context.stroke();
      context.fillStyle = this.#colours.on_cluster;
      context.fillText(shortCount(count), x, y + 0.5);
    }
  }

  /** @param {number} x @param {number} y @param {boolean} selected */
  #halo(x, y, selected) {
    const context = this.#context;
    context.beginPath();
    context.arc(x, y, 20, 0, 2 * Math.PI);
    context.fillStyle = this.#colours.halo;
    context.fill();
    context.lineWidth = 3;
    context.strokeStyle = this.#colours.accent;
    if (selected) context.stroke();
  }

  /** @param {string} name @param {number} x @param {number} y */
  #label(name, x, y) {
    const context = this.#context;
    context.font = FONT;
    context.textAlign = "center";
    context.textBaseline = "top";
    context.lineJoin = "round";
    context.lineWidth = 4;
    context.strokeStyle = this.#colours.edge;
    const short = shortened(name, MAX_LETTERS);
    context.strokeText(short, x, y + 17);
    context.fillStyle = this.#colours.ink;
    context.fillText(short, x, y + 17);
  }
}

/** @param {number} count */
export function clusterRadius(count) {
  return Math.min(14 + 4.5 * Math.log10(Math.max(count, 1)), 34);
}

/** @param {number} count */
function shortCount(count) {
  return count < 1_000 ? String(count) : `${(count / 1_000).toFixed(count < 10_000 ? 1 : 0)}k`;
}
