"""Starts the demo's supervisor for `test_supervisor` with stand-ins for its parts. They import little, so that they start at
once.
"""

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def _play(part: str, arguments: list[str]) -> None:
    if part == "supervise":
        _play_supervisor(json.loads(arguments[0]))
    elif part == "hub":
        _play_hub(int(arguments[0]), Path(arguments[1]))
    elif part == "drivers":
        here = Path(arguments[0])
        if "stubborn" in arguments:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (here / "drivers.saw").write_text(json.dumps(dict(os.environ)))
        (here / "drivers.pid").write_text(str(os.getpid()))
        signal.pause()
    elif part == "die":
        print("I have no petrol left", flush=True)
        raise SystemExit(3)


def _play_supervisor(asked: dict[str, Any]) -> None:
    from tracking.demo import supervisor  # the others do without
    from tracking.errors import ConfigError

    own = [sys.executable, __file__]
    here = asked["here"]
    commands = supervisor.Commands(
        migrate=[*own, *asked.get("migrate", ["pass"])],
        serve=[*own, "hub", "{port}", here],
        token=[sys.executable, "-c", "print('a line before'); print('the-token')"],
        drive=[*own, *asked.get("drive", ["drivers", here])],
    )
    try:
        supervisor.run(asked.get("port"), 3, data=Path(here), commands=commands)
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


def _play_hub(port: int, here: Path) -> None:
    """Plays a hub with trips of demo-01 and demo-02, one after the other. A file `over` in `here` ends the first trip of
    demo-01.
    """
    begun = int(time.time() * 1000)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            over = (here / "over").exists()
            if self.path == "/readyz":
                self.answer({})
            elif self.path == "/v1/fleets/demo/trips?status=enroute_to_pickup":
                now = trip("demo-01", "next" if over else "first", begun)
                self.answer({"trips": [trip("demo-02", "second", begun), now, trip("demo-01", "of an earlier run", 0)]})
            elif self.path.startswith("/v1/fleets/demo/trips?status="):
                self.answer({"trips": []})
            elif self.path.startswith("/v1/trips/"):
                ended = over and self.path.endswith("/first")
                self.answer({"status": "complete" if ended else "enroute_to_pickup"})

        def do_POST(self) -> None:
            assert self.headers["Authorization"] == "Bearer the-token"
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/v1/tokens":
                assert (asked["role"], asked["fleet_id"]) == ("dispatcher", "demo")
                self.answer({"token": "the-fleets"})
                return
            trip_id = self.path.split("/")[3]
            self.answer({"url": f"http://127.0.0.1:{port}/trip/{trip_id}#secret"})

        def answer(self, body: dict[str, Any]) -> None:
            encoded = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

    def trip(vehicle: str, trip_id: str, created: int) -> dict[str, Any]:
        return {"trip_id": trip_id, "vehicle": {"vehicle_id": vehicle}, "created_at": created}

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    (here / "hub.pid").write_text(str(os.getpid()))
    server.serve_forever()


if __name__ == "__main__":
    _play(sys.argv[1], sys.argv[2:])
