#!/bin/sh
# What the container runs: `serve` (the hub, its database migrated first), `drive` (the demo's drivers), `links` (passengers'
# links to their trips); anything else is run as it is. Without a key in the environment a secret is made at the first start
# and kept in the volume, which hub and drivers share.
set -eu

data=${DATA_DIRECTORY:-/data}
hub=${HUB_URL:-http://hub:8000}

if [ -z "${TRACKING_JWT_SECRET:-}" ] && [ -z "${TRACKING_JWKS:-}" ]; then
    if [ ! -s "$data/secret" ]; then
        # Linked into place whole: of two that start at once, both read what the first one made.
        fresh=$data/secret.$$
        (umask 077 && python -c 'import secrets; print(secrets.token_urlsafe(48))' >"$fresh")
        ln "$fresh" "$data/secret" 2>/dev/null || [ -s "$data/secret" ]
        rm -f "$fresh"
    fi
    TRACKING_JWT_SECRET=$(cat "$data/secret")
    export TRACKING_JWT_SECRET
fi

service_token() {
    TRACKING_SERVICE_TOKEN=$(tracking token --role service | tail -n 1)
    export TRACKING_SERVICE_TOKEN
}

case ${1:-serve} in
    serve)
        tracking migrate
        exec tracking serve --host 0.0.0.0 --port 8000
        ;;
    drive)
        service_token
        exec python -m driver_sim drive --drivers "${DRIVERS:-40}" --standby 4 --hub "$hub" --state "$data/drivers"
        ;;
    links)
        service_token
        exec python -c 'import sys; from tracking.demo import print_links; print_links(sys.argv[1])' "$hub"
        ;;
    *) exec "$@" ;;
esac
