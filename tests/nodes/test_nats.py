"""Hubs joined by a real NATS server: its end, its silence, who may use it, and that nobody else is heard."""

import base64
import binascii
import json
import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.nodes.network import Station, nats, running
from tests.support.broker import Broker
from tests.support.positions import a_position
from tests.support.waiting import until
from tracking.config import load
from tracking.errors import ConfigError, StoreUnavailable
from tracking.metrics import NODE_IGNORED
from tracking.nodes import nats_backplane
from tracking.nodes.nats_backplane import NatsBackplane

SECRET = "s3cret/@word"


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path / "broker.log").start()
    yield broker
    broker.kill()


async def test_a_broker_that_restarts_is_another_life_and_all_is_missed(own_broker: Broker) -> None:
    a, b = (Station(name, nats(own_broker.url)) for name in "ab")
    async with running(a, b):
        await until(lambda: a.knows("b") and b.knows("a"))
        own_broker.kill()
        await until(lambda: not a.nodes.connected and not b.nodes.connected)
        own_broker.start()
        await until(lambda: a.missed_ == ["b", "b"] and b.missed_ == ["a", "a"])
        a.nodes.forward(a_position(1, 1, 7), ("b",))
        await until(lambda: b.seqs == [7])
        assert a.gone_ == b.gone_ == []


async def test_hubs_find_each_other_again_while_the_database_is_away(own_broker: Broker) -> None:
    is_away = False

    async def cluster() -> str:
        if is_away:
            raise StoreUnavailable("away for this test")
        return "cluster"

    a, b = (Station(name, NatsBackplane(load(nats_url=own_broker.url), cluster)) for name in "ab")
    async with running(a, b):
        await until(lambda: a.knows("b") and b.knows("a"))
        is_away = True
        own_broker.kill()
        await until(lambda: not a.nodes.connected and not b.nodes.connected)
        own_broker.start()
        await until(lambda: a.missed_ == ["b", "b"] and b.missed_ == ["a", "a"])


async def test_a_broker_that_answers_nothing_is_given_up(
    own_broker: Broker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_backplane, "PING_SECONDS", 0.1)
    caplog.set_level(logging.WARNING)
    a, b = (Station(name, nats(own_broker.url)) for name in "ab")
    async with running(a, b):
        await until(lambda: a.knows("b") and b.knows("a"))
        before = _connections(own_broker.port)
        own_broker.suspend()
        for _ in range(200):  # more than the connection takes
            await a.backplane.send("b", bytes(200_000))
        await until(lambda: not a.nodes.connected and not b.nodes.connected)
        # The connections that the broker does not read are closed, although data waits in one.
        await until(lambda: not before & _connections(own_broker.port))
        own_broker.resume()
        await until(lambda: a.nodes.connected and b.nodes.connected and a.knows("b") and b.knows("a"))
        a.nodes.forward(a_position(1, 1, 99_999), ("b",))
        await until(lambda: 99_999 in b.seqs)
    assert len(caplog.messages) <= 4


def _connections(port: int) -> set[int]:
    """Our own ports of the connections to this port."""
    ours = psutil.Process().net_connections("tcp4")
    return {one.laddr.port for one in ours if one.raddr and one.raddr.port == port}


async def test_two_installations_on_one_broker_do_not_mix(broker: Broker) -> None:
    ours, ours_too = (Station(name, nats(broker.url, "ours")) for name in "ab")
    theirs = Station("c", nats(broker.url, "theirs"))
    prefixed = Station("d", nats(broker.url, "ours", nats_prefix="acme.tracking"))
    before = NODE_IGNORED.labels("foreign").value
    async with running(theirs, prefixed, ours, ours_too):
        await until(lambda: theirs.nodes.connected and prefixed.nodes.connected)
        await until(lambda: ours.knows("b") and ours_too.knows("a"))
        ours.nodes.forward(a_position(1, 1, 1), ("b", "c", "d"))
        await until(lambda: ours_too.seqs == [1])
        assert theirs.knows()
        assert prefixed.knows()
    assert NODE_IGNORED.labels("foreign").value == before


async def test_a_hub_joins_when_the_database_says_which_cluster_it_is_of(broker: Broker) -> None:
    answers: list[str] = []

    async def cluster() -> str:
        if not answers:
            raise StoreUnavailable("PostgreSQL is away")
        return answers[0]

    a = Station("a", NatsBackplane(load(nats_url=broker.url), cluster))
    async with running(a):
        assert not a.nodes.connected
        answers.append("late")
        await until(lambda: a.nodes.connected)


@pytest.mark.parametrize(
    "user, options", [("hub:s3cret%2F%40word@", ["--user", "hub", "--pass", SECRET]), ("t0ken@", ["--auth", "t0ken"])]
)
async def test_secrets_of_the_url_are_used_and_never_logged(
    user: str, options: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    broker = Broker(tmp_path / "log", options).start()
    right = Station("a", nats(f"nats://{user}127.0.0.1:{broker.port}"))
    wrong = Station("b", nats(f"nats://x{user}127.0.0.1:{broker.port}"))
    try:
        async with running(right, wrong):
            await until(lambda: right.nodes.connected and any("uthorization" in message for message in caplog.messages))
            assert not wrong.nodes.connected
            broker.kill()
            await until(lambda: not right.nodes.connected and any("Refused" in message for message in caplog.messages))
    finally:
        broker.kill()
    assert not any(secret in caplog.text for secret in ("s3cret", "t0ken"))
    assert "s3cret" not in repr(load(nats_url="nats://hub:s3cret@host"))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`cert.pem` for 127.0.0.1 and its `key.pem`, signed by itself."""
    folder = tmp_path_factory.mktemp("certificate")
    options = (
        "-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        " -subj /CN=broker -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(
        ["openssl", "req", *options.split(), "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True,
        capture_output=True,
    )
    return folder


async def test_tls_is_verified_on_both_sides_and_never_given_up(
    certificate: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = str(certificate / "cert.pem"), str(certificate / "key.pem")
    encrypted = Broker(tmp_path / "tls.log", ["--tls", "--tlscert", cert, "--tlskey", key, "--tlsverify", "--tlscacert", cert])
    plain = Broker(tmp_path / "plain.log", ["-DV"])
    encrypted.start()
    plain.start()
    files = {"nats_ca": cert, "nats_certificate": cert, "nats_key": key}
    good = Station("a", nats(encrypted.url.replace("nats", "tls"), **files))
    distrusting = Station("b", nats(encrypted.url.replace("nats", "tls")))
    downgraded = Station("c", nats(f"nats://hub:s3cret@127.0.0.1:{plain.port}", nats_ca=cert))
    try:
        async with running(good, distrusting, downgraded):
            await until(lambda: good.nodes.connected)
            await until(lambda: "CERTIFICATE_VERIFY_FAILED" in caplog.text and "does not offer TLS" in caplog.text)
            assert not distrusting.nodes.connected
            assert not downgraded.nodes.connected
    finally:
        encrypted.kill()
        plain.kill()
    assert "s3cret" not in plain.log.read_text()
    assert '"user":"hub"' not in plain.log.read_text()


class Key:
    """A key of NATS. Its public form and its seed are base32 of a prefix, 32 bytes, and a CRC-16 with the low byte first."""

    def __init__(self, kind: str) -> None:
        self._key = Ed25519PrivateKey.generate()
        prefix = {"O": 14, "A": 0, "U": 20}[kind] << 3
        self.public = _base32(bytes([prefix]) + self._key.public_key().public_bytes_raw())
        self.seed = _base32(bytes([(18 << 3) | (prefix >> 5), (prefix & 31) << 3]) + self._key.private_bytes_raw())

    def vouch(self, subject: str, kind: str) -> str:
        """A JWT for another key, signed by this one."""
        claims = {"jti": "x", "iat": 1, "iss": self.public, "sub": subject, "nats": {"type": kind, "version": 2} | LIMITS[kind]}
        text = b".".join(_base64(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, claims))
        return (text + b"." + _base64(self._key.sign(text))).decode()


LIMITS: dict[str, dict[str, object]] = {
    "operator": {},
    "account": {"limits": dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)},
    "user": {"subs": -1, "data": -1, "payload": -1},
}


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _base32(data: bytes) -> str:
    return base64.b32encode(data + binascii.crc_hqx(data, 0).to_bytes(2, "little")).decode().rstrip("=")


async def test_a_file_of_credentials_proves_who_the_hub_is(tmp_path: Path) -> None:
    operator, account, user, stranger = Key("O"), Key("A"), Key("U"), Key("U")
    configuration = tmp_path / "nats.conf"
    configuration.write_text(
        f"operator: {operator.vouch(operator.public, 'operator')}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {account.public}: {operator.vouch(account.public, 'account')} }}\n"
    )
    broker = Broker(tmp_path / "log", ["-c", str(configuration)]).start()
    stations = []
    for name, key in (("right", user), ("wrong", stranger)):
        (tmp_path / name).write_text(
            f"-----BEGIN NATS USER JWT-----\n{account.vouch(user.public, 'user')}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{key.seed}\n------END USER NKEY SEED------\n"
        )
        stations.append(Station(name, nats(broker.url, nats_credentials=str(tmp_path / name))))
    right, wrong = stations
    try:
        async with running(right, wrong):
            await until(lambda: right.nodes.connected and "authentication error" in broker.log.read_text())
            assert not wrong.nodes.connected
    finally:
        broker.kill()


@pytest.mark.parametrize("forbidden", ["publish", "subscribe"])
async def test_a_user_who_may_not_use_the_subjects_is_not_connected_and_told(
    forbidden: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    configuration = tmp_path / "nats.conf"
    configuration.write_text(
        f'authorization {{ users: [{{user: hub, password: x, permissions: {{ {forbidden}: {{ deny: ["tracking.>"] }} }} }}] }}'
    )
    broker = Broker(tmp_path / "log", ["-c", str(configuration)]).start()
    station = Station("a", nats(f"nats://hub:x@127.0.0.1:{broker.port}"))
    try:
        async with running(station):
            await until(lambda: "to publish and to subscribe to tracking.>" in caplog.text)
            assert not station.nodes.connected
    finally:
        broker.kill()


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"nats_url": "http://host"}, "nats://host:port"),
        ({"nats_url": "nats://user:pa/ss@host"}, "%2F"),
        ({"nats_url": ",".join(["nats://host"] * 17)}, "at most 16"),
        ({"nats_prefix": "a b"}, "separated by dots"),
        ({"nats_prefix": "a.>"}, "separated by dots"),
        ({"nats_key": "key.pem"}, "belong together"),
    ],
)
def test_wrong_settings_are_explained_without_the_url(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load(**settings)
    assert "pa/ss" not in str(caught.value)


@pytest.mark.parametrize("name", ["nats_credentials", "nats_ca"])
async def test_a_file_that_is_missing_or_wrong_is_explained(name: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("nothing of use")
    for path in (wrong, tmp_path / "missing"):
        with pytest.raises(ConfigError, match="TRACKING_NATS"):
            nats("nats://127.0.0.1", **{name: str(path)})
