/**
 * A read-only view of what the page shows, for tests and for pages that embed it.
 * @param {object} parts
 * @param {import("../shared/connection.js").Connection} parts.connection
 * @param {import("./feed.js").Feed} parts.feed
 * @param {import("./live_map.js").LiveMap} parts.map
 * @param {{live: boolean, stale: boolean, ending: import("../shared/close_codes.js").Ending | null}} parts.page
 */
export function viewOf({ connection, feed, map, page }) {
  return Object.freeze({
    get state() {
      return {
        connection: connection.state,
        live: page.live,
        ending: page.ending,
        status: feed.trip?.status ?? null,
        epoch: feed.cursor?.epoch ?? null,
        offset: feed.cursor?.offset ?? null,
        position: feed.position && { ...feed.position },
        stale: page.stale,
      };
    },
    get displayed() {
      return map.shown && { ...map.shown };
    },
    get line() {
      return feed.track.points.map((point) => [...point]);
    },
    get lineLength() {
      return feed.track.points.length;
    },
    get follow() {
      return map.follow;
    },
  });
}
