/** The markers on the map: the car, the pickup, the stops and the drop-off. */

/** @typedef {import("./messages.js").Place} Place */
/** @typedef {"pickup" | "stop" | "dropoff"} PlaceKind */

const SVG = "http://www.w3.org/2000/svg";

/** A car seen from above, facing north: body, windscreens, lights. */
const CAR = [
  ["path", { class: "car-body", d: "M22 3.5c5.6 0 8.9 1.6 9.6 5.6.7 3.9 1 8.300 1 13.900s-.2 9.600-.6 13.100c-.4 3.600-3.400 4.900-10 4.900s-9.600-1.300-10-4.900c-.4-3.500-.6-7.500-.6-13.100s.3-10 1-13.900c.7-4 4-5.600 9.600-5.600z" }],
  ["path", { class: "car-glass", d: "M13.700 17.200c1.600-1.700 4.600-2.500 8.300-2.500s6.700.8 8.300 2.500l-1.500 5.200c-1.900-.7-4.200-1-6.800-1s-4.900.3-6.800 1z" }],
  ["path", { class: "car-glass", d: "M15.100 32.200c1.900.6 4.200.9 6.900.9s5-.3 6.900-.9l1 3.600c-1.700 1-4.500 1.500-7.900 1.500s-6.200-.5-7.900-1.500z" }],
  ["path", { class: "car-light", d: "M13.700 8.600c.5-1.800 1.700-2.700 3.800-3.100-.4 1.700-1.600 2.800-3.800 3.100zM30.300 8.600c-.5-1.800-1.700-2.700-3.800-3.100.4 1.700 1.600 2.800 3.800 3.100z" }],
];

/** The vehicle's marker. It rotates independently of the map. */
export class CarMarker {
  #turning = document.createElement("div");
  #marker;

  constructor() {
    this.#turning.className = "car";
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 44 44");
    svg.setAttribute("aria-hidden", "true");
    for (const [name, attributes] of CAR) {
      const shape = document.createElementNS(SVG, /** @type {string} */ (name));
      for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
      svg.append(shape);
    }
    const disc = document.createElement("div");
    disc.className = "car-disc";
    this.#turning.append(disc, svg);
    const icon = L.divIcon({ className: "car-icon", iconSize: [44, 44], html: this.#turning });
    this.#marker = L.marker([0, 0], { icon, interactive: false, keyboard: false, zIndexOffset: 1_000 });
  }

  /**
   * @param {L.Map} map
   * @param {import("./motion.js").Shown} shown
   */
  show(map, { latitude, longitude, bearing }) {
    this.#marker.setLatLng([latitude, longitude]);
    if (!map.hasLayer(this.#marker)) this.#marker.addTo(map);
    this.#turning.classList.toggle("unheaded", bearing === null);
    this.#turning.style.setProperty("--bearing", `${(bearing ?? 0).toFixed(1)}deg`);
  }

  hide() {
    this.#marker.remove();
  }

  /** @param {boolean} stale */
  set stale(stale) {
    this.#turning.classList.toggle("stale", stale);
  }
}

/** @type {Record<PlaceKind, string>} */
const NAMELESS = { pickup: "Pickup", stop: "Stop", dropoff: "Drop-off" };

/**
 * A named place of the trip.
 * @param {PlaceKind} kind
 * @param {Place} place
 */
export function placeMarker(kind, place) {
  const holder = document.createElement("div");
  holder.className = `place place-${kind}`;
  const dot = document.createElement("span");
  dot.className = "place-dot";
  const name = document.createElement("span");
  name.className = "place-name";
  name.textContent = place.name || NAMELESS[kind];
  holder.append(dot, name);
  const icon = L.divIcon({ className: "place-icon", iconSize: [0, 0], html: holder });
  const zIndexOffset = kind === "stop" ? 100 : 200;
  return L.marker([place.latitude, place.longitude], { icon, interactive: false, keyboard: false, zIndexOffset });
}
