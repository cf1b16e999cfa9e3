#!/bin/sh
# Writes into .env which digests the images' tags mean now, so that every later build and start takes the same ones. Run it
# again, and build again, to take newer ones. It needs Docker with its plugin buildx.
set -eu
cd "$(dirname "$0")"
umask 077 # as .env may hold secrets

fresh=.env.$$
trap 'rm -f "$fresh"' EXIT
if [ -f .env ]; then grep -vE '^(NODE|PYTHON|POSTGIS|NATS|NGINX)_IMAGE=' .env >"$fresh" || true; fi
for pair in NODE=node:22-slim PYTHON=python:3.11-slim POSTGIS=postgis/postgis:16-3.4 NATS=nats:2.11-alpine NGINX=nginx:1.28-alpine; do
    image=${pair#*=}
    digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$image") || {
        echo "no digest of $image (above): this needs Docker with its plugin buildx, and a registry that can be reached" >&2
        exit 1
    }
    case $digest in
        sha256:*) printf '%s_IMAGE=%s@%s\n' "${pair%%=*}" "$image" "$digest" >>"$fresh" ;;
        *)
            echo "no digest of $image: got '$digest'" >&2
            exit 1
            ;;
    esac
done
mv "$fresh" .env
