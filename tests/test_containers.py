"""The containers, as far as they can be checked without an engine: the compose file and the entry point."""

import ipaddress
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.hub_process import SECRET
from tracking.api.changes import MAX_SECONDS
from tracking.api.geofences import MAX_FEATURE
from tracking.api.http import MAX_BODY
from tracking.config import MIN_SECRET_BYTES, load
from tracking.sockets.request_reader import MAX_HEAD

ROOT = Path(__file__).resolve().parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
HUBS = {"hub", "hub-a", "hub-b"}
OURS = HUBS | {"migrate", "drivers", "links"}
NGINX = (ROOT / "examples" / "proxy" / "nginx-hubs.conf").read_text()


def mounted(service: str) -> set[str]:
    """The names of the volumes that a service mounts."""
    return {volume.partition(":")[0] for volume in SERVICES[service].get("volumes", [])}


def test_there_are_the_services_that_these_tests_know() -> None:
    assert set(SERVICES) == OURS | {"database", "nats", "proxy"}


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())
def test_each_is_confined(service: dict[str, Any]) -> None:
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["read_only"] is True
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert service["pids_limit"] > 0
    assert not service.get("privileged") and "network_mode" not in service
    assert service.get("user") not in ("root", "0")
    # Only files built here may be mounted from the host.
    assert not any(volume.startswith((".", "/", "~")) for volume in service.get("volumes", []))


def test_the_image_runs_as_nobody_special() -> None:
    assert re.search(r"^USER 10001:10001$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def test_only_hubs_have_the_secret() -> None:
    assert {name for name in SERVICES if "state" in mounted(name)} == HUBS
    for name, service in SERVICES.items():
        assert not any("SECRET" in variable for variable in service.get("environment", {})), name
    # A service token is less dangerous, because it expires and can be revoked. Services that need one read it.
    assert {name for name in SERVICES if "tokens" in mounted(name)} == HUBS | {"drivers", "links"}
    assert all("tokens:/tokens:ro" in SERVICES[name]["volumes"] for name in ("drivers", "links"))
    assert all(mounted(name).isdisjoint(mounted("database")) for name in OURS)


def test_the_database_is_reached_by_the_hub_and_by_nobody_from_outside() -> None:
    assert COMPOSE["networks"]["storage"]["internal"] is True
    assert on("storage") == HUBS | {"database", "migrate"}
    assert SERVICES["database"]["networks"] == ["storage"] and "ports" not in SERVICES["database"]
    # The one hub and the proxy have the same port, so both cannot run.
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        name: ["127.0.0.1:8000:8000"] for name in ("hub", "proxy")
    }


def on(network: str) -> set[str]:
    """The services that are in a network."""
    return {name for name, service in SERVICES.items() if network in service["networks"]}


def test_the_two_hubs_run_without_the_one_and_the_one_without_them() -> None:
    profile = {"nats", "hub-a", "hub-b", "proxy"}
    assert {name for name, service in SERVICES.items() if service.get("profiles") == ["hubs"]} == profile
    needed = {name: set(service.get("depends_on", {})) for name, service in SERVICES.items()}
    assert all("hub" not in needed[name] for name in profile), "`docker compose up proxy` must not begin the one hub"
    assert all(needed[name].isdisjoint(profile) for name in set(SERVICES) - profile)
    assert "TRACKING_NATS_URL" not in SERVICES["hub"]["environment"]
    assert needed["proxy"] == {"hub-a", "hub-b"} and needed["hub-a"] == needed["hub-b"] == {"migrate", "nats"}


def test_the_two_hubs_differ_in_their_name_and_address_alone() -> None:
    first, second = (SERVICES[name] for name in ("hub-a", "hub-b"))
    assert {key for key in first if first[key] != second[key]} == {"environment", "networks"}
    environments = first["environment"], second["environment"]
    assert {key for key in environments[0] if environments[0][key] != environments[1][key]} == {"TRACKING_NODE_NAME"}
    assert first["stop_grace_period"] == "60s", "a drain takes 20 s, and storing may take as long"


def test_hubs_believe_the_proxy_and_nobody_else_who_reaches_them() -> None:
    (subnet,) = [config["subnet"] for config in COMPOSE["networks"]["front"]["ipam"]["config"]]
    assert on("front") == {"hub-a", "hub-b", "proxy"} and COMPOSE["networks"]["front"]["internal"] is True
    assert on("between") == {"hub-a", "hub-b", "nats"} and COMPOSE["networks"]["between"]["internal"] is True
    addresses = {name: SERVICES[name]["networks"]["front"]["ipv4_address"] for name in on("front")}
    assert len(set(addresses.values())) == 3
    assert all(ipaddress.ip_address(address) in ipaddress.ip_network(subnet) for address in addresses.values())
    for name in ("hub-a", "hub-b"):
        assert SERVICES[name]["environment"]["TRACKING_TRUSTED_PROXIES"] == subnet
        assert load(trusted_proxies=subnet).proxies == [subnet]


def test_the_proxy_knows_the_two_hubs_and_repeats_nothing_that_changes() -> None:
    assert set(re.findall(r"^ *server (\S+?):8000 ", NGINX, re.MULTILINE)) == {"hub-a", "hub-b"}
    directives = dict(re.findall(r"^ *(\w+) +([^;#{}]+);", NGINX, re.MULTILINE))
    assert directives["proxy_next_upstream"] == "error timeout"
    assert int(directives["client_max_body_size"].removesuffix("m")) * 2**20 > MAX_FEATURE > MAX_BODY
    count, size = directives["large_client_header_buffers"].split()
    assert int(size.removesuffix("k")) * 1024 * 2 == MAX_HEAD and int(count) >= 2
    longest = max(load().ping_interval, load().tick_interval, MAX_SECONDS)
    assert int(directives["proxy_read_timeout"].removesuffix("s")) > 2 * longest
    assert "proxy_set_header X-Forwarded-For $remote_addr;" in NGINX
    source = COMPOSE["configs"][SERVICES["proxy"]["configs"][0]["source"]]["file"]
    assert (ROOT / source).read_text() == NGINX


def test_links_are_printed_for_who_asks_and_stand_in_no_log() -> None:
    assert SERVICES["links"]["profiles"] == ["links"], "`docker compose up` must not begin it"
    assert SERVICES["links"]["logging"] == {"driver": "none"}
    assert {name for name, service in SERVICES.items() if service.get("command") == ["links"]} == {"links"}


def test_every_image_can_be_pinned_by_its_digest() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) == {"${NODE_IMAGE}", "${PYTHON_IMAGE}"}
    defaults = dict(re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", dockerfile, re.MULTILINE))
    for variable, name in (("POSTGIS_IMAGE", "database"), ("NATS_IMAGE", "nats"), ("NGINX_IMAGE", "proxy")):
        defaults[variable] = SERVICES[name]["image"].removeprefix(f"${{{variable}:-").removesuffix("}")
    for name, service in SERVICES.items():
        if name in OURS:
            assert service["image"] == "tracking"
            assert service["build"]["args"] == {
                image: f"${{{image}:-{defaults[image]}}}" for image in ("NODE_IMAGE", "PYTHON_IMAGE")
            }
    pinned = dict(
        re.findall(r"(\w+)=([\w/]+:[\w.-]+)", re.findall(r"^for pair in (.*);", _script("docker-pin.sh"), re.MULTILINE)[0])
    )
    assert {f"{name}_IMAGE": image for name, image in pinned.items()} == defaults


def _script(name: str) -> str:
    return (ROOT / name).read_text()


class Container:
    """A directory in which the entry point runs. `tracking` and `python` are stand-ins that record their arguments."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bin = path / "bin"
        self.data = path / "data"
        self.calls = path / "calls"
        self.token = path / "tokens" / "service"
        for directory in (self.bin, self.data, self.token.parent):
            directory.mkdir()
        note = f'echo "$0 $* secret=${{TRACKING_JWT_SECRET:-}} token=${{TRACKING_SERVICE_TOKEN:-}}" >>{self.calls}'
        self.put("tracking", f'{note}; [ "$1" != token ] || printf "a line before\\nthe-token\\n"')
        self.put("python", f'case "$*" in *secrets*) exec {sys.executable} "$@" ;; esac; {note}')

    def put(self, name: str, body: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{body}\n")
        (self.bin / name).chmod(0o755)

    def run(self, what: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(ROOT / "docker-entrypoint.sh"), what],
            env={
                "PATH": f"{self.bin}:{os.defpath}",
                "DATA_DIRECTORY": str(self.data),
                "SERVICE_TOKEN_FILE": str(self.token),
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


def test_the_hub_makes_its_secret_once_and_leaves_a_token_for_the_others(container: Container) -> None:
    for _ in range(2):
        done = container.run("serve")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    secret = (container.data / "secret").read_text().strip()
    assert len(secret) >= MIN_SECRET_BYTES
    assert container.token.read_text() == "the-token\n"
    for file in (container.data / "secret", container.token):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    calls = container.calls.read_text().splitlines()
    assert [call.split()[1] for call in calls] == ["token", "serve"] * 2
    assert all(f"secret={secret} " in call for call in calls)
    assert sorted(os.listdir(container.data)) == ["secret"] and os.listdir(container.token.parent) == ["service"]  # noqa: PTH208


def test_the_others_have_the_token_and_no_secret_and_print_neither(container: Container) -> None:
    container.token.write_text("the-token\n")
    for what in ("drive", "links"):
        done = container.run(what)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = container.run("migrate")
    assert done.returncode == 0
    calls = container.calls.read_text().splitlines()
    assert all("secret= " in call for call in calls)
    assert [call.rpartition("token=")[2] for call in calls] == ["the-token", "the-token", ""]
    assert list(container.data.iterdir()) == []


def test_a_secret_of_the_operators_is_kept_nowhere(container: Container) -> None:
    assert container.run("serve", TRACKING_JWT_SECRET=SECRET).returncode == 0
    assert list(container.data.iterdir()) == []
    # Nothing can be signed with a provider's keys, so no token may be left.
    container.token.unlink()
    assert container.run("serve", TRACKING_JWKS="https://provider/keys").returncode == 0
    assert not container.token.exists()
    missing = container.run("drive")
    assert missing.returncode == 1 and "SERVICE_TOKEN_FILE" in missing.stderr


def test_digests_are_written_beside_what_else_the_operator_set(container: Container, tmp_path: Path) -> None:
    script = tmp_path / "docker-pin.sh"
    script.write_text(_script("docker-pin.sh"))
    script.chmod(0o755)
    environment = tmp_path / ".env"
    environment.write_text("DRIVERS=7\nNODE_IMAGE=node:20\n")
    environment.chmod(0o600)
    container.put("docker", 'eval image=\\${$#}; echo "sha256:of-$image"')

    def pin() -> int:
        return subprocess.run(["sh", str(script)], env={"PATH": f"{container.bin}:{os.defpath}"}, check=False).returncode

    for _ in range(2):
        assert pin() == 0
        assert environment.read_text().splitlines() == [
            "DRIVERS=7",
            "NODE_IMAGE=node:22-slim@sha256:of-node:22-slim",
            "PYTHON_IMAGE=python:3.11-slim@sha256:of-python:3.11-slim",
            "POSTGIS_IMAGE=postgis/postgis:16-3.4@sha256:of-postgis/postgis:16-3.4",
            "NATS_IMAGE=nats:2.11-alpine@sha256:of-nats:2.11-alpine",
            "NGINX_IMAGE=nginx:1.28-alpine@sha256:of-nginx:1.28-alpine",
        ]
    assert stat.S_IMODE(environment.stat().st_mode) == 0o600, "it may hold secrets"
    before = environment.read_text()
    container.put("docker", "exit 1")
    assert pin() != 0
    assert environment.read_text() == before
