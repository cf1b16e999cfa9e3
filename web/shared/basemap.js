import { hubAddress } from "./hub.js";
import { labelRules, paintRules } from "./style.js";

/** @typedef {import("./palette.js").Palette} Palette */

/**
 * The basemap, as the hub's settings say.
 * @typedef {object} BasemapSettings
 * @property {"vector" | "raster"} kind
 * @property {string} url a PMTiles archive with OpenMapTiles layers, from the hub's address, or a raster template with {z}, {x} and {y}
 * @property {string} [attribution]
 */

const DEEPEST_TILE = 14;

/**
 * Adds a basemap; returns a way to repaint it when the theme changes.
 * @param {L.Map} map
 * @param {BasemapSettings} settings
 * @param {Palette} palette
 * @returns {{repaint: (palette: Palette) => void}}
 */
export function addBasemap(map, settings, palette) {
  const attribution = credit(settings.attribution ?? "");
  if (settings.kind === "raster") {
    L.tileLayer(settings.url, { attribution, maxZoom: 19, className: "raster-tile" }).addTo(map);
    return { repaint() {} };
  }
  /** @type {any} its types declare only the members that all Leaflet layers have */
  const layer = protomapsL.leafletLayer({
    url: hubAddress(settings.url),
    attribution,
    maxDataZoom: DEEPEST_TILE,
    paintRules: paintRules(palette),
    labelRules: labelRules(palette),
    backgroundColor: palette.land,
    noWrap: true,
  });
  layer.addTo(map);
  return {
    repaint(next) {
      layer.paintRules = paintRules(next);
      layer.labelRules = labelRules(next);
      layer.backgroundColor = next.land;
      layer.clearLayout();
      layer.rerenderTiles();
    },
  };
}

const CREDIT_LINKS = [
  ["OpenStreetMap contributors", "https://www.openstreetmap.org/copyright"],
  ["OpenMapTiles", "https://openmaptiles.org/"],
];

/** Escapes a credit. Leaflet writes credits as HTML, but the setting is text. @param {string} text */
function credit(text) {
  const holder = document.createElement("span");
  holder.textContent = text;
  return CREDIT_LINKS.reduce(
    (html, [name, url]) => html.replace(name, `<a href="${url}" target="_blank" rel="noreferrer">${name}</a>`),
    holder.innerHTML,
  );
}
