"""Attacks by slow downloads, by sums of days, and by a download that continues after its token was revoked."""

import asyncio
import contextlib
import socket
from typing import Self

import asyncpg
import httpx

from tests.attacks.scene import Scene
from tests.support.clients import PLAIN, Api, now_ms, token
from tracking.store.days import DAY_MS

SLOW_BYTES = 7_000
"""Bytes a second of a slow reader."""


async def drive(database_url: str, vehicle_id: str, trip_id: str | None, rows: int, *, begin: int, step: int = 1_000) -> None:
    """Write positions of a vehicle straight into the table, `step` ms apart. The trip begins with the first."""
    connection = await asyncpg.connect(database_url)
    try:
        for day in range(begin // DAY_MS, (begin + rows * step) // DAY_MS + 1):
            await connection.execute("SELECT ensure_positions_partition('1970-01-01'::date + $1::int)", day)
        # The trip is under way since then.
        await connection.execute(
            "UPDATE trip_spans SET started_at = to_timestamp($2::bigint / 1000.0) WHERE trip = "
            "(SELECT trip FROM trips WHERE trip_id = $1)",
            trip_id,
            begin,
        )
        await connection.execute(
            """
            WITH session AS (
                INSERT INTO sessions (vehicle, name) SELECT vehicle, gen_random_uuid()::text FROM vehicles WHERE vehicle_id = $1
                RETURNING session, vehicle
            )
            INSERT INTO positions
                (vehicle, trip, session, seq, fix_time, server_time, accuracy, altitude, speed, bearing, battery, point)
            SELECT vehicle, (SELECT trip FROM trips WHERE trip_id = $2), session, n,
                to_timestamp(($4::bigint + n * $5::bigint) / 1000.0), to_timestamp(($4::bigint + n * $5::bigint) / 1000.0),
                5, 460.5, 8 + n % 100 / 7.0, n % 360, 80,
                ST_SetSRID(ST_MakePoint(9.5 + sin(n / 5000.0) / 10, 47.1 + cos(n / 5000.0) / 10), 4326)
            FROM session, generate_series(0, $3::int - 1) n
            """,
            vehicle_id,
            trip_id,
            rows,
            begin,
            step,
        )
    finally:
        await connection.close()


class SlowReader:
    """A download over a raw connection with a small receive buffer."""

    def __init__(self, port: int, path: str, bearer: str, method: str = "GET", version: str = "1.1") -> None:
        self.head = b""
        self.got = 0
        """Bytes of the body, including the chunks' lengths."""
        self.tail = b""
        self.reset = False
        """The connection was reset, not closed."""
        self._port = port
        self._request = f"{method} /v1{path} HTTP/{version}\r\nHost: hub\r\nAuthorization: Bearer {bearer}\r\n\r\n".encode()
        self._line: socket.socket

    async def __aenter__(self) -> Self:
        self._line = socket.socket()
        self._line.setblocking(False)
        # Otherwise the system would buffer megabytes.
        self._line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._line, ("127.0.0.1", self._port))
        await loop.sock_sendall(self._line, self._request)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._line.close()

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])

    @property
    def whole(self) -> bool:
        """Whether the body is complete."""
        return self.tail.endswith(b"0\r\n\r\n")

    async def begun(self) -> int:
        """Read the headers. Returns the status."""
        while b"\r\n\r\n" not in self.head:
            data = await asyncio.get_running_loop().sock_recv(self._line, 512)
            assert data, "closed without an answer"
            self.head += data
        self.head, _, self.tail = self.head.partition(b"\r\n\r\n")
        self.got = len(self.tail)
        return self.status

    async def read(self, most: int = 65_536) -> bool:
        """Read some bytes. Returns False if the connection has ended."""
        try:
            data = await asyncio.get_running_loop().sock_recv(self._line, most)
        except ConnectionError:
            self.reset = True
            return False
        self.got += len(data)
        self.tail = (self.tail + data)[-16:]
        return bool(data)

    async def dawdle(self, seconds: float) -> bool:
        """Read `SLOW_BYTES` a second. Returns False if the connection has ended."""
        deadline = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < deadline:
            if not await self.read(SLOW_BYTES // 10):
                return False
            await asyncio.sleep(0.1)
        return True


async def dawdlers(scene: Scene, rows: int = 70_000, readers: int = 4) -> None:
    """One share link reads four tracks of some 9 MB at 7 KB a second. Other downloads meanwhile are complete."""
    async with Api(scene.url) as api, contextlib.AsyncExitStack() as open_:
        vehicle_id, trip_id = await api.under_way()
        await drive(scene.database_url, vehicle_id, trip_id, rows, begin=now_ms() - (rows + 60) * 1_000)
        shared = (await api.call("POST", f"/trips/{trip_id}/shares", {}))["token"]
        path = f"/trips/{trip_id}/track?format=csv"
        slow = [await open_.enter_async_context(SlowReader(scene.hub.port, path, shared)) for _ in range(readers)]
        dawdling = [asyncio.create_task(_dawdle(reader, scene.seconds)) for reader in slow]
        watching = asyncio.create_task(_longest_transaction(scene.database_url))
        try:
            await _download(scene, path, [token("passenger", trip_id), token("service")], rows)
            statuses = sorted(await asyncio.gather(*dawdling))
            assert statuses == ([200] * 2 + [429] * readers)[:readers], statuses
        finally:
            for task in (*dawdling, watching):
                task.cancel()
            *_, watched = await asyncio.gather(*dawdling, watching, return_exceptions=True)
        assert isinstance(watched, asyncio.CancelledError), watched


async def _download(scene: Scene, path: str, bearers: list[str], rows: int) -> None:
    """Downloads of honest clients, one after the other."""
    deadline = asyncio.get_running_loop().time() + scene.seconds
    while asyncio.get_running_loop().time() < deadline:
        for bearer in bearers:
            async with httpx.AsyncClient(headers={"Authorization": f"Bearer {bearer}"}, timeout=30, verify=PLAIN) as http:
                try:
                    answer = await http.get(f"{scene.url}/v1{path}")
                except httpx.HTTPError as error:
                    raise AssertionError(f"an honest download: {error!r}") from error
            assert answer.status_code == 200, f"an honest download: {answer.status_code}"
            assert answer.text.count("\n") == rows + 1


async def _dawdle(reader: SlowReader, seconds: float) -> int:
    if await reader.begun() == 200:
        await reader.dawdle(seconds)
    return reader.status


async def _longest_transaction(database_url: str) -> None:
    """Fail if a transaction of the hub is open for long."""
    connection = await asyncpg.connect(database_url)
    try:
        while True:
            longest = await connection.fetchval(
                "SELECT extract(epoch FROM max(now() - xact_start)) FROM pg_stat_activity WHERE application_name = 'tracking'"
            )
            assert (longest or 0) < 5, f"a transaction is open for {longest} s"
            await asyncio.sleep(0.2)
    finally:
        await connection.close()


async def days(scene: Scene, rows: int = 1_000_000, requests: int = 12) -> None:
    """Twelve clients at once keep asking for the days of a vehicle with a million fixes today."""
    begin = now_ms() // DAY_MS * DAY_MS
    async with Api(scene.url) as api:
        fleet_id = await api.fleet()
        vehicle_id = await api.vehicle(fleet_id)
        await drive(scene.database_url, vehicle_id, None, rows, begin=begin, step=max(1, (now_ms() - begin) // rows))
    bearer = {"Authorization": f"Bearer {token('dispatcher', fleet_id)}"}
    deadline = asyncio.get_running_loop().time() + scene.seconds
    async with httpx.AsyncClient(base_url=f"{scene.url}/v1", headers=bearer, timeout=60, verify=PLAIN) as http:
        answered = False
        while not answered or asyncio.get_running_loop().time() < deadline:
            answers = await asyncio.gather(*(http.get(f"/vehicles/{vehicle_id}/days") for _ in range(requests)))
            for answer in answers:
                assert answer.status_code in (200, 503), answer.text
                if answer.status_code == 200:
                    answered = True
                    assert answer.json()["days"][-1]["positions"] == rows
                else:
                    assert "Retry-After" in answer.headers
            await asyncio.sleep(0.1)


async def outlived(scene: Scene, rows: int = 300_000) -> None:
    """A token is revoked during the download of a long track."""
    async with Api(scene.url) as api:
        vehicle_id, trip_id = await api.under_way()
        await drive(scene.database_url, vehicle_id, trip_id, rows, begin=now_ms() - (rows + 60) * 1_000)
        share = await api.call("POST", f"/trips/{trip_id}/shares", {})
        async with SlowReader(scene.hub.port, f"/trips/{trip_id}/track?format=csv", share["token"]) as reader:
            assert await reader.begun() == 200
            while reader.got < 1_000_000:
                assert await reader.read()
            await api.call("DELETE", f"/shares/{share['share_id']}")
            before = reader.got
            while await reader.read():
                pass
            assert not reader.whole
            assert reader.got - before < 2_000_000, f"{reader.got - before} bytes came after the link was revoked"
