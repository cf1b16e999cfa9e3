# The hub, and the demo's drivers, in one image. `docker compose up` runs both beside PostGIS; see docker-compose.yml.

# Tags can come to mean other images. ./docker-pin.sh finds the digests that they mean now, where the registry can be reached:
# `docker compose` reads them from .env, and `docker build` takes them by --build-arg.
ARG NODE_IMAGE=node:22-slim
ARG PYTHON_IMAGE=python:3.11-slim

# The pages' libraries; Node is not needed afterwards.
FROM ${NODE_IMAGE} AS web
WORKDIR /app/web
COPY web/package.json web/package-lock.json web/.npmr[c] ./
RUN npm ci --omit=dev --no-audit --no-fund

FROM ${PYTHON_IMAGE} AS python
WORKDIR /app
RUN python -m venv /venv
COPY requirements.lock ./
RUN /venv/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.m[d] ./
COPY tracking tracking
COPY driver_sim driver_sim
# Editable: the code finds its pages and migrations beside itself, in /app.
RUN /venv/bin/pip install --no-deps --no-build-isolation --no-index --editable .

FROM ${PYTHON_IMAGE}
RUN groupadd --system --gid 10001 tracking \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin tracking \
    && install -d -m 0700 -o 10001 -g 10001 /data /tokens
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY --from=python /venv /venv
COPY --from=python /app /app
COPY sql sql
COPY web web
COPY --from=web /app/web/node_modules web/node_modules
COPY --chmod=755 docker-entrypoint.sh /usr/local/bin/

# A number, so that a platform can see that it is not root's. /data holds the hub's secret, where none is given, or the drivers'
# outboxes.
USER 10001:10001
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["serve"]
