// A driver's app: drives its vehicle's trip, and keeps each fix until the hub has acknowledged it. TOKEN is a driver's token.
const { HUB = "http://127.0.0.1:8000", TOKEN } = process.env;
const NEXT = { new: "enroute_to_pickup", enroute_to_pickup: "arrived_at_pickup", arrived_at_pickup: "enroute_to_dropoff" };
const session = crypto.randomUUID(); // a phone stores the session, `seq` and `kept`, to go on after its own restart
let [seq, kept, driven, trip, interval, timer] = [0, [], 0]; // `driven` is 0 at the pickup and 1 at the drop-off

function connect() {
  const socket = new WebSocket(`${HUB.replace("http", "ws")}/v1/driver`, ["tracking.v1", `bearer.${TOKEN}`]);
  const send = (type, fields) => socket.send(JSON.stringify({ type, ...fields }));
  const report = (again = []) => {
    for (let i = 0; i < again.length; i += 500) send("positions", { positions: again.slice(i, i + 500) });
    timer = setTimeout(report, interval * 1000);
    if (!trip) return;
    if (trip.status === "enroute_to_dropoff") driven = Math.min(driven + 0.05, 1);
    const between = (axis) => trip.pickup[axis] + driven * (trip.dropoff[axis] - trip.pickup[axis]);
    kept.push({ seq: ++seq, fix_time: Date.now(), latitude: between("latitude"), longitude: between("longitude") });
    send("position", kept.at(-1));
    const status = driven === 1 ? "complete" : NEXT[trip.status];
    if (status) send("trip_status", { trip_id: trip.trip_id, status, client_id: `${trip.trip_id} ${status}` });
  };
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.type === "welcome") send("hello", { session });
    if (message.type === "welcome" || message.type === "trip") trip = message.trip;
    if (trip && (!trip.vehicle || ["complete", "canceled"].includes(trip.status))) trip = undefined; // over, or another's
    interval = message.interval ?? interval;
    if (message.type === "ack") kept = kept.filter((fix) => fix.seq > message.seq);
    if (message.code ?? message.rejected) console.log(data);
    if (message.type === "ack" && !timer) report(kept);
    if (timer && !trip && !kept.length) socket.close(1000);
  };
  const ended = ({ code = 1006, reason = "" }) => {
    socket.onclose = socket.onerror = null; // one of the two is enough
    timer = clearTimeout(timer);
    console.log(`${seq - kept.length} of ${seq} fixes acknowledged; closed with ${code} ${reason}`);
    if (code !== 1000 && code < 4500 && code !== 4405 && code !== 4409) setTimeout(connect, 500 + 2500 * Math.random());
  };
  socket.onclose = socket.onerror = ended;
}
connect();
