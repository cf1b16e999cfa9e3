// A passenger's app: follows a trip, and after a lost connection goes on with the first update that it missed. LINK is the
// passenger's link.
const [hub, trip, token] = process.env.LINK.split(/\/trip\/|#/);
let [epoch, offset] = ["", 0];

function connect() {
  const place = epoch && `?epoch=${epoch}&offset=${offset}`;
  const socket = new WebSocket(`${hub.replace("http", "ws")}/v1/trips/${trip}/live${place}`, ["tracking.v1", `bearer.${token}`]);
  let silence;
  socket.onmessage = ({ data }) => {
    clearTimeout(silence); // the hub sends something every 15 s: silence means a broken line
    silence = setTimeout(() => socket.close(), 40_000);
    const message = JSON.parse(data);
    epoch = message.epoch ?? epoch;
    offset = message.offset ?? offset;
    const { type, latitude, longitude } = message;
    if (type === "snapshot") console.log(`snapshot ${offset}: ${message.trip.status}, a line of ${message.track.length} points`);
    if (type === "resumed") console.log(`resumed ${offset}`);
    if (type === "position") console.log(`position ${offset}: ${latitude.toFixed(5)}, ${longitude.toFixed(5)}`);
    if (type === "skipped") console.log(`skipped ${message.from} to ${message.to}: the newest position follows`);
    if (type === "trip") console.log(`trip ${offset}: ${message.trip.status}`);
    if (type === "message") console.log(`message ${offset}: ${message.from}: ${message.text}`);
    if (type === "track_revised") console.log(`track_revised ${offset}: ${message.track.length} points`);
  };
  const ended = ({ code = 1006, reason = "" }) => {
    socket.onclose = socket.onerror = null; // one of the two is enough
    clearTimeout(silence);
    console.log(`closed with ${code} ${reason}`);
    if (code < 4500 && code !== 4405) setTimeout(connect, 500 + 2500 * Math.random());
  };
  socket.onclose = socket.onerror = ended;
}
connect();
