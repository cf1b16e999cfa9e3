#!/bin/sh
# What the container runs: `migrate` (the database), `serve` (the hub), `drive` (the demo's drivers), `links` (passengers' links
# to their trips); anything else is run as it is.
#
# The key that tokens are signed with is the hub's alone: `serve` takes it from the environment, or makes a secret at its first
# start and keeps it in its volume. With SERVICE_TOKEN_FILE set it leaves a service token there, for `drive` and `links`.
set -eu

data=${DATA_DIRECTORY:-/data}
hub=${HUB_URL:-http://hub:8000}

secret() {
    if [ -n "${TRACKING_JWT_SECRET:-}" ] || [ -n "${TRACKING_JWKS:-}" ]; then return; fi
    if [ ! -s "$data/secret" ]; then
        # Linked into place whole: of two that start at once, both read what the first one made.
        fresh=$data/secret.$$
        (umask 077 && python -c 'import secrets; print(secrets.token_urlsafe(48))' >"$fresh")
        ln "$fresh" "$data/secret" 2>/dev/null || [ -s "$data/secret" ]
        rm -f "$fresh"
    fi
    TRACKING_JWT_SECRET=$(cat "$data/secret")
    export TRACKING_JWT_SECRET
}

leave_service_token() {
    if [ -z "${SERVICE_TOKEN_FILE:-}" ] || [ -z "${TRACKING_JWT_SECRET:-}" ]; then return; fi
    (umask 077 && tracking token --role service | tail -n 1 >"$SERVICE_TOKEN_FILE.$$")
    mv "$SERVICE_TOKEN_FILE.$$" "$SERVICE_TOKEN_FILE"
}

take_service_token() {
    if [ ! -s "${SERVICE_TOKEN_FILE:-}" ]; then
        echo "no service token: set SERVICE_TOKEN_FILE to the file where the hub left one" >&2
        exit 1
    fi
    TRACKING_SERVICE_TOKEN=$(cat "$SERVICE_TOKEN_FILE")
    export TRACKING_SERVICE_TOKEN
}

case ${1:-serve} in
    migrate) exec tracking migrate ;;
    serve)
        secret
        leave_service_token
        exec tracking serve --host 0.0.0.0 --port 8000
        ;;
    drive)
        take_service_token
        exec python -m driver_sim drive --drivers "${DRIVERS:-40}" --standby 4 --hub "$hub" --state "$data/drivers"
        ;;
    links)
        take_service_token
        exec python -c 'import sys; from tracking.demo.links import print_links; print_links(sys.argv[1])' "$hub"
        ;;
    *) exec "$@" ;;
esac
