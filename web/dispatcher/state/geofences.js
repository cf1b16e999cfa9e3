/** @typedef {import("../../shared/messages.js").Geofence} Geofence */

const { compare } = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

/** The geofences of the fleet. */
export class Geofences {
  /** @type {Map<string, Geofence>} */
  byId = new Map();
  /** Geofences that changed after the list was requested. The list may lack these changes. @type {Set<string>} */
  #heard = new Set();

  /** Call this when all geofences are requested. */
  ask() {
    this.#heard.clear();
  }

  /** Takes the hub's list of all geofences. @param {readonly Geofence[]} geofences */
  replace(geofences) {
    const heard = [...this.byId].filter(([id]) => this.#heard.has(id));
    const listed = geofences.filter(({ id }) => !this.#heard.has(id));
    this.byId = new Map([...listed.map((geofence) => /** @type {[string, Geofence]} */ ([geofence.id, geofence])), ...heard]);
  }

  /** @param {Geofence} geofence */
  put(geofence) {
    this.#heard.add(geofence.id);
    this.byId.set(geofence.id, geofence);
  }

  /** @param {string} id */
  remove(id) {
    this.#heard.add(id);
    this.byId.delete(id);
  }

  /** @param {string | undefined} id returns the name, or the id if it has no name, or an empty text without an id */
  nameOf(id) {
    const geofence = id === undefined ? undefined : this.byId.get(id);
    return geofence ? nameOf(geofence) : (id ?? "");
  }

  get sorted() {
    return [...this.byId.values()].sort((one, other) => compare(nameOf(one), nameOf(other)) || (one.id < other.id ? -1 : 1));
  }
}

/** @param {Geofence} geofence */
export function nameOf({ id, properties }) {
  return properties?.name || id;
}

/**
 * A geofence that is cut at the antimeridian (RFC 7946, 3.1.9), joined for drawing: its western part lies past 180 degrees.
 * @param {Geofence} geofence
 * @returns {Geofence}
 */
export function beyondAntimeridian(geofence) {
  const { type, coordinates } = /** @type {{type: string, coordinates: any[]}} */ (geofence.geometry);
  if (type !== "MultiPolygon") return geofence;
  const touches = (/** @type {number} */ edge) => coordinates.some((polygon) => polygon[0].some((/** @type {number[]} */ place) => place[0] === edge));
  if (!touches(180) || !touches(-180)) return geofence;
  const moved = coordinates.map((polygon) => {
    const western = polygon[0].every((/** @type {number[]} */ place) => place[0] <= 0);
    return western ? polygon.map((/** @type {number[][]} */ ring) => ring.map(([longitude, ...rest]) => [longitude + 360, ...rest])) : polygon;
  });
  return { ...geofence, geometry: /** @type {any} */ ({ type, coordinates: moved }) };
}

/** A random id. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return `fence-${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/**
 * The form's values in the hub's units: km/h become m/s, minutes become seconds, and empty fields are left out.
 * @param {{name: string, kilometresPerHour: string, minutes: string}} form
 * @param {Geofence["properties"]} [before] its other properties are kept
 * @returns {Geofence["properties"]}
 */
export function propertiesOf({ name, kilometresPerHour, minutes }, before = {}) {
  const { name: _name, speed_limit: _limit, dwell_after: _dwell, ...others } = before;
  return {
    ...others,
    ...(name.trim() && { name: name.trim() }),
    ...(kilometresPerHour && { speed_limit: toMetresPerSecond(Number(kilometresPerHour)) }),
    ...(minutes && { dwell_after: Math.round(Number(minutes) * 60) }),
  };
}

/** Rounded to millimetres a second, so that 50 km/h is shown as 50 again. @param {number} kilometresPerHour */
export function toMetresPerSecond(kilometresPerHour) {
  return Number((kilometresPerHour / 3.6).toFixed(3));
}

/** A number for a form's field. @param {number | undefined} metresPerSecond */
export function toKilometresPerHour(metresPerSecond) {
  return metresPerSecond === undefined ? "" : String(Math.round(metresPerSecond * 36) / 10);
}
