/** The style of the vector basemap: paint and label rules for the layers of OpenMapTiles. */

/** @typedef {import("./palette.js").Palette} Palette */
/** @typedef {import("protomaps-leaflet").PaintRule} PaintRule */
/** @typedef {import("protomaps-leaflet").LabelRule} LabelRule */
/** @typedef {import("protomaps-leaflet").Feature} Feature */

const NAMES = ["name", "name:latin"];
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', Arial, sans-serif";

/** @typedef {{name: string, classes: string[], minzoom: number, widths: [zoom: number, width: number][], edge: number}} Road */

/** From minor to major roads, so that major roads lie on top. @type {Road[]} */
const ROADS = [
  { name: "service", classes: ["service"], minzoom: 14, widths: [[14, 1], [16, 3.5], [18, 9]], edge: 1 },
  { name: "minor", classes: ["minor"], minzoom: 12, widths: [[12, 0.7], [14, 2.4], [16, 7.5], [18, 20]], edge: 1.2 },
  { name: "tertiary", classes: ["tertiary"], minzoom: 11, widths: [[11, 1], [14, 4], [16, 10], [18, 24]], edge: 1.4 },
  { name: "secondary", classes: ["secondary"], minzoom: 9, widths: [[9, 1], [12, 2.4], [14, 5.5], [16, 12], [18, 27]], edge: 1.6 },
  { name: "primary", classes: ["primary", "trunk", "motorway"], minzoom: 6, widths: [[6, 0.8], [10, 1.8], [12, 3.2], [14, 6.5], [16, 13.5], [18, 30]], edge: 1.8 },
];

/** @param {...string} classes */
const isOf = (...classes) => {
  const wanted = new Set(classes);
  return (/** @type {number} */ _zoom, /** @type {Feature} */ feature) => wanted.has(String(feature.props.class));
};
const isTunnel = (/** @type {Feature} */ feature) => feature.props.brunnel === "tunnel";

/**
 * Areas, water, buildings and roads, bottom to top.
 * @param {Palette} palette
 * @returns {PaintRule[]}
 */
export function paintRules(palette) {
  return [...ground(palette), ...water(palette), ...buildings(palette), ...ways(palette), ...roads(palette), boundary(palette)];
}

/** @param {string} dataLayer @param {string} fill @param {PaintRule["filter"]} [filter] @param {number} [minzoom] @returns {PaintRule} */
function area(dataLayer, fill, filter, minzoom) {
  // The thin line closes the seams between tiles. Two smoothed edges would show the ground between them.
  return { dataLayer, symbolizer: new protomapsL.PolygonSymbolizer({ fill, stroke: fill, width: 0.8 }), filter, minzoom };
}

/** @param {string} dataLayer @param {string} color @param {[number, number][]} widths @param {Partial<PaintRule> & {dash?: number[], cap?: CanvasLineCap}} [rest] @returns {PaintRule} */
function line(dataLayer, color, widths, { dash, cap = "round", ...rest } = {}) {
  const width = protomapsL.exp(1.4, widths);
  return { dataLayer, symbolizer: new protomapsL.LineSymbolizer({ color, width, dash, lineCap: cap, lineJoin: "round" }), ...rest };
}

/** @param {Palette} palette */
function ground(palette) {
  return [
    area("landuse", palette.settled, isOf("residential")),
    area("landuse", palette.works, isOf("industrial", "commercial", "retail", "bus_station")),
    area("landuse", palette.campus, isOf("school", "college", "university", "kindergarten", "hospital")),
    area("landcover", palette.field, isOf("farmland")),
    area("landcover", palette.grass, isOf("grass")),
    area("landcover", palette.wood, isOf("wood")),
    area("park", palette.grass, isOf("nature_reserve", "national_park", "public_park"), 13),
    area("landuse", palette.cemetery, isOf("cemetery")),
    area("landuse", palette.sport, isOf("pitch", "playground", "stadium", "track"), 13),
  ];
}

/** @param {Palette} palette */
function water(palette) {
  return [
    area("water", palette.water),
    line("waterway", palette.water, [[9, 0.8], [12, 2], [16, 7]], { filter: isOf("river", "canal"), minzoom: 9 }),
    line("waterway", palette.water, [[13, 0.8], [16, 2.5], [18, 5]], { filter: isOf("stream", "drain", "ditch"), minzoom: 13 }),
  ];
}

/** @param {Palette} palette @returns {PaintRule[]} */
function buildings({ building, buildingEdge }) {
  const symbolizer = new protomapsL.PolygonSymbolizer({ fill: building, stroke: buildingEdge, width: 0.8 });
  return [{ dataLayer: "building", symbolizer, minzoom: 15, filter: (_zoom, feature) => feature.geomType === 3 }];
}

/** @param {Palette} palette */
function ways({ path, rail, land }) {
  return [
    line("transportation", path, [[14, 0.9], [16, 1.6], [18, 3]], { filter: isOf("track"), minzoom: 14 }),
    line("transportation", path, [[15, 1], [18, 2.6]], { filter: isOf("path"), minzoom: 15, dash: [3, 3], cap: "butt" }),
    line("transportation", rail, [[9, 0.8], [14, 1.8], [18, 4]], { filter: isOf("rail", "transit"), minzoom: 9 }),
    line("transportation", land, [[13, 0.8], [18, 2.4]], { filter: isOf("rail", "transit"), minzoom: 13, dash: [6, 6], cap: "butt" }),
  ];
}

/** @param {Palette} palette */
function roads(palette) {
  const open = ROADS.map((road) => ({ ...road, filter: isOf(...road.classes) }));
  const colorOf = (/** @type {string} */ name) => (name === "primary" ? palette.primary : name === "secondary" ? palette.major : palette.minor);
  const edgeOf = (/** @type {string} */ name) => (name === "primary" ? palette.primaryCasing : palette.casing);
  const edges = open.map(({ name, minzoom, widths, edge, filter }) =>
    line("transportation", edgeOf(name), widths.map(([zoom, width]) => [zoom, width + edge]), {
      minzoom: Math.max(minzoom, 11),
      filter: (zoom, feature) => filter(zoom, feature) && !isTunnel(feature),
    }),
  );
  const tunnels = open.map(({ minzoom, widths, filter }) =>
    line("transportation", palette.casing, widths, {
      minzoom,
      dash: [4, 4],
      cap: "butt",
      filter: (zoom, feature) => filter(zoom, feature) && isTunnel(feature),
    }),
  );
  const fills = open.map(({ name, minzoom, widths, filter }) =>
    line("transportation", colorOf(name), widths, { minzoom, filter: (zoom, feature) => filter(zoom, feature) && !isTunnel(feature) }),
  );
  return [...tunnels, ...edges, ...fills];
}

/** @param {Palette} palette */
function boundary(palette) {
  return line("boundary", palette.boundary, [[6, 0.8], [14, 1.6]], {
    filter: (_zoom, feature) => Number(feature.props.admin_level) === 2,
    dash: [5, 4],
    cap: "butt",
  });
}

/**
 * Names of places, streets, waters and stations. If two collide, the first in the list is drawn.
 * @param {Palette} palette
 * @returns {LabelRule[]}
 */
export function labelRules(palette) {
  return [
    placeName(palette, palette.place, 700, [[8, 13], [14, 19]], ["city", "town"], 6, 16),
    placeName(palette, palette.place, 600, [[10, 11], [14, 15]], ["village"], 10, 16),
    placeName(palette, palette.hamlet, 500, [[12, 11], [15, 13]], ["hamlet", "suburb", "neighbourhood", "locality"], 13, 17),
    streetName(palette.street, 12, ["primary", "trunk", "motorway", "secondary"], 13, 600, palette.halo),
    streetName(palette.street, 11.5, ["tertiary"], 14, 600, palette.halo),
    streetName(palette.street, 11, ["minor"], 15, 500, palette.halo),
    streetName(palette.street, 10.5, ["service", "track", "path"], 17, 500, palette.halo),
    waterName(palette),
    stationName(palette.stop, palette.halo, isOf("railway"), 14),
    stationName(palette.stop, palette.halo, isOf("bus"), 17),
    stationName(palette.nature, palette.halo, isOf("castle", "hospital", "park"), 16),
    peakName(palette),
  ];
}

/** @param {Palette} palette @param {string} fill @param {number} fontWeight @param {number[][]} sizes @param {string[]} classes @param {number} minzoom @param {number} maxzoom @returns {LabelRule} */
function placeName({ halo: stroke }, fill, fontWeight, sizes, classes, minzoom, maxzoom) {
  const fontSize = protomapsL.linear(sizes);
  const symbolizer = new protomapsL.CenteredTextSymbolizer({ ...text(fill, fontWeight), fontSize, stroke, width: 2.5, lineHeight: 1.3 });
  return { dataLayer: "place", symbolizer, filter: isOf(...classes), minzoom, maxzoom };
}

/** @param {string} fill @param {number} size @param {string[]} classes @param {number} minzoom @param {number} fontWeight @param {string} stroke @returns {LabelRule} */
function streetName(fill, size, classes, minzoom, fontWeight, stroke) {
  const fontSize = protomapsL.linear([[minzoom, size], [18, size + 2]]);
  const symbolizer = new protomapsL.LineLabelSymbolizer({
    ...text(fill, fontWeight),
    fontSize,
    stroke,
    width: 3.5,
    position: protomapsL.LineLabelPlacement.Center,
    repeatDistance: 420,
  });
  return { dataLayer: "transportation_name", symbolizer, filter: isOf(...classes), minzoom };
}

/** @param {Palette} palette @returns {LabelRule} */
function waterName({ waterName: fill, halo }) {
  const symbolizer = new protomapsL.LineLabelSymbolizer({
    ...text(fill, 500),
    fontStyle: "italic",
    fontSize: 12,
    stroke: halo,
    width: 2.5,
    position: protomapsL.LineLabelPlacement.Center,
    repeatDistance: 700,
  });
  return { dataLayer: "waterway", symbolizer, filter: isOf("river", "canal"), minzoom: 12 };
}

/** @param {string} fill @param {string} stroke @param {PaintRule["filter"]} filter @param {number} minzoom @returns {LabelRule} */
function stationName(fill, stroke, filter, minzoom) {
  const symbolizer = new protomapsL.GroupSymbolizer([
    new protomapsL.CircleSymbolizer({ radius: 3, fill, stroke, width: 1.5 }),
    new protomapsL.OffsetTextSymbolizer({ ...text(fill, 500), fontSize: 11, stroke, width: 2, offsetX: 6, offsetY: 5, maxLineChars: 18 }),
  ]);
  return { dataLayer: "poi", symbolizer, filter, minzoom };
}

/** @param {Palette} palette @returns {LabelRule} */
function peakName({ nature, halo }) {
  const symbolizer = new protomapsL.CenteredTextSymbolizer({ ...text(nature, 500), fontSize: 11, stroke: halo, width: 2 });
  return { dataLayer: "mountain_peak", symbolizer, minzoom: 13 };
}

/** @param {string} fill @param {number} fontWeight */
function text(fill, fontWeight) {
  return { labelProps: NAMES, fill, fontWeight, fontFamily: FONT };
}
