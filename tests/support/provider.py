"""An identity provider for tests. It serves a JWKS over HTTP, well or badly, and counts requests."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def public(key: Key, kid: str | None, **changes: Any) -> dict[str, Any]:
    """A key of a JWKS. A change to None leaves that member out."""
    maker: Any = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    member = {**maker.to_jwk(key.public_key(), as_dict=True), "kid": kid, **changes}
    member.pop("key_ops", None)
    return {name: value for name, value in {**member, **changes}.items() if value is not None}


class Provider:
    """Serves `keys` as JSON, or `body` if that is set, with `status`. It answers nothing while `answers` is not set."""

    def __init__(self) -> None:
        self.keys: list[Any] = []
        self.body: bytes | None = None
        self.status = "200 OK"
        self.headers = ""
        self.drips = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = 0
        self.at_once = 0
        self.most_at_once = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                await self._answer(reader, writer)
            finally:
                self.at_once -= 1
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, gone = asyncio.ensure_future(self.answers.wait()), asyncio.ensure_future(reader.read())
        await asyncio.wait({answers, gone}, return_when=asyncio.FIRST_COMPLETED)
        answers.cancel()
        gone.cancel()
        body = self.body if self.body is not None else json.dumps({"keys": self.keys}).encode()
        writer.write(
            f"HTTP/1.1 {self.status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{self.headers}\r\n".encode()
        )
        if self.drips:
            for byte in body:
                writer.write(bytes((byte,)))
                await writer.drain()
                await asyncio.sleep(0.2)
        writer.write(body)
        await writer.drain()


@contextlib.asynccontextmanager
async def providing(*keys: Any) -> AsyncIterator[Provider]:
    provider = Provider()
    provider.keys = list(keys)
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"
    try:
        yield provider
    finally:
        provider.answers.set()
        server.close()
