/** Draws a vehicle. Each status has a shape, so that nobody needs the colour. A nose points where the vehicle drives. */

/** @typedef {import("../../shared/messages.js").VehicleStatus} VehicleStatus */

/** Half the largest width of a glyph. */
export const REACH = 19;
const TURNS = 36;
const SVG = "http://www.w3.org/2000/svg";

/** Path data around (0, 0). `mark` lies on the body and stays upright. @type {Record<VehicleStatus, {body: string, mark: string, hollow: boolean}>} */
const SHAPES = {
  available: { body: "M-7.500 0a7.500 7.500 0 1 0 15 0a7.500 7.500 0 1 0-15 0z", mark: "", hollow: true },
  on_trip: { body: "M-9 0a9 9 0 1 0 18 0a9 9 0 1 0-18 0z", mark: "M-1.300-3a1.300 1.300 0 1 0 2.600 0a1.300 1.300 0 1 0-2.600 0M-3.700 4.200a3.700 3.400 0 0 1 7.400 0", hollow: false },
  stopped: { body: "M-5.500-8.500h11a3 3 0 0 1 3 3v11a3 3 0 0 1-3 3h-11a3 3 0 0 1-3-3v-11a3 3 0 0 1 3-3z", mark: "M-2.600-3.600v7.200M2.600-3.600v7.200", hollow: false },
  lost: { body: "M0-10.500 10.500 0 0 10.500-10.500 0z", mark: "M-2.900-2.900l5.800 5.800M2.900-2.900l-5.800 5.800", hollow: false },
};
const NOSE = "M-6.800-8 0-17.500 6.800-8z";
const HOLLOW_WIDTH = 4;

const COLOURS = /** @type {const} */ ({
  available: "--available",
  on_trip: "--on-trip",
  stopped: "--stopped",
  lost: "--lost",
  edge: "--glyph-edge",
  surface: "--glyph-surface",
  ink: "--ink",
  accent: "--accent",
  halo: "--halo",
  cluster: "--cluster",
  on_cluster: "--on-cluster",
});

/** @typedef {Record<keyof typeof COLOURS, string>} Colours */

/** The present colours of the page's styles, for drawing on a canvas. @param {HTMLElement} element @returns {Colours} */
export function coloursOf(element) {
  const style = getComputedStyle(element);
  return /** @type {Colours} */ (Object.fromEntries(Object.entries(COLOURS).map(([name, variable]) => [name, style.getPropertyValue(variable).trim()])));
}

/** All glyphs, drawn side by side in advance. Drawing a vehicle then copies a small image. */
export class Glyphs {
  /** @type {HTMLCanvasElement} */
  #sheet = document.createElement("canvas");
  #pixels;

  /** @param {Colours} colours @param {number} scale of the glyph @param {number} ratio device pixels for each of the page's */
  constructor(colours, scale, ratio) {
    this.#pixels = Math.ceil(2 * REACH * scale * ratio);
    this.size = this.#pixels / ratio;
    this.#sheet.width = this.#pixels * (TURNS + 1);
    this.#sheet.height = this.#pixels * STATUSES.length;
    const context = /** @type {CanvasRenderingContext2D} */ (this.#sheet.getContext("2d"));
    STATUSES.forEach((status, row) => {
      for (let column = 0; column <= TURNS; column += 1) {
        context.setTransform(scale * ratio, 0, 0, scale * ratio, (column + 0.5) * this.#pixels, (row + 0.5) * this.#pixels);
        paint(context, status, colours, column === TURNS ? null : (column * 360) / TURNS);
      }
    });
  }

  /**
   * @param {CanvasRenderingContext2D} context whose unit is a pixel of the page
   * @param {VehicleStatus} status
   * @param {number | null} bearing
   * @param {number} x @param {number} y the middle
   */
  draw(context, status, bearing, x, y) {
    const pixels = this.#pixels;
    const column = bearing === null ? TURNS : Math.round((bearing / 360) * TURNS) % TURNS;
    context.drawImage(this.#sheet, column * pixels, STATUSES.indexOf(status) * pixels, pixels, pixels, x - this.size / 2, y - this.size / 2, this.size, this.size);
  }
}

const STATUSES = /** @type {VehicleStatus[]} */ (Object.keys(SHAPES));

/** @param {CanvasRenderingContext2D} context @param {VehicleStatus} status @param {Colours} colours @param {number | null} bearing */
function paint(context, status, colours, bearing) {
  const { body, mark, hollow } = SHAPES[status];
  const shape = new Path2D(body);
  const nose = new Path2D();
  if (bearing !== null) nose.addPath(new Path2D(NOSE), new DOMMatrix().rotate(bearing));
  context.lineJoin = context.lineCap = "round";
  context.strokeStyle = colours.edge;
  context.lineWidth = hollow ? HOLLOW_WIDTH + 3 : 3;
  context.stroke(shape);
  context.lineWidth = 3;
  context.stroke(nose);
  context.fillStyle = colours[status];
  context.fill(nose);
  context.fillStyle = hollow ? colours.surface : colours[status];
  context.fill(shape);
  context.strokeStyle = hollow ? colours[status] : colours.edge;
  context.lineWidth = hollow ? HOLLOW_WIDTH : 2.4;
  context.stroke(hollow ? shape : new Path2D(mark));
}

/** The same shape for a list or a legend. @param {VehicleStatus} status */
export function glyphIcon(status) {
  const { body, mark, hollow } = SHAPES[status];
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "-11 -11 22 22");
  svg.setAttribute("class", `glyph ${status}${hollow ? " hollow" : ""}`);
  svg.setAttribute("aria-hidden", "true");
  for (const [name, data] of [["body", body], ["mark", mark]]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    path.setAttribute("d", data);
    svg.append(path);
  }
  return svg;
}
