import { byId, h } from "../../shared/dom.js";
import { isolated, timeOfDay } from "../../shared/format.js";
import { EVENT_KINDS, eventText, instantText } from "../labels.js";
import { instantOf } from "../state/events.js";

/** @typedef {import("../../shared/messages.js").FleetEvent} FleetEvent */

const MAX_SHOWN = 200;

/** The list of the fleet's events, newest on top. */
export class EventList {
  #list = byId("event-list");
  #live;
  #onShow;
  #kind = "";

  /** @param {import("../state/live.js").Live} live @param {(event: FleetEvent) => void} onShow */
  constructor(live, onShow) {
    this.#live = live;
    this.#onShow = onShow;
    const kinds = /** @type {HTMLSelectElement} */ (byId("event-kind"));
    kinds.append(...Object.entries(EVENT_KINDS).map(([kind, words]) => h("option", { value: kind }, words)));
    kinds.addEventListener("change", () => {
      this.#kind = kinds.value;
      this.show();
    });
    this.show();
  }

  /** Writes the whole list again, after a change of the filter or of names. */
  show() {
    const wanted = this.#live.log.events.filter((event) => this.#wants(event)).slice(-MAX_SHOWN);
    this.#list.replaceChildren(...wanted.reverse().map((event) => this.#entry(event)));
    if (!wanted.length) this.#list.append(h("li", { class: "none" }, "Nothing has happened yet."));
  }

  /** The event's text for screen readers. @param {FleetEvent} event */
  say(event) {
    return `${isolated(this.#live.vehicles.nameOf(event.vehicle_id))} ${eventText(event, this.#live.geofences.nameOf(event.geofence_id))}`;
  }

  /** @param {FleetEvent} event */
  #wants({ kind }) {
    return !this.#kind || kind === this.#kind;
  }

  /** @param {FleetEvent} event */
  #entry(event) {
    const { event_id: id, kind, vehicle_id: vehicleId, latitude, late } = event;
    const instant = instantOf(event);
    const text = eventText(event, this.#live.geofences.nameOf(event.geofence_id));
    const name = this.#live.vehicles.nameOf(vehicleId);
    const shown = latitude === undefined && !this.#live.vehicles.byId.has(vehicleId) ? null : h("button", { type: "button", class: "show-event", "aria-label": `Show on map: ${name} ${text}`, onclick: () => this.#onShow(event) }, "Show on map");
    return h(
      "li",
      { "data-event": id, "data-kind": kind, class: late && "late" },
      h("span", { class: "kind", "aria-hidden": "true" }),
      h("span", { class: "row-name" }, name),
      h("time", { datetime: new Date(instant).toISOString(), title: timeOfDay(instant) }, instantText(instant, this.#live.now())),
      h("span", { class: "row-detail" }, late ? `${text} · reported late` : text),
      shown && h("span", { class: "row-buttons" }, shown),
    );
  }
}
