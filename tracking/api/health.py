"""`/healthz`, `/readyz`, `/metrics`: for operators."""

import asyncio

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tracking.api.http import require, respond, service_of
from tracking.auth import Role
from tracking.errors import StoreUnavailable
from tracking.live.database_clock import CLOCK_TOLERANCE_MS
from tracking.metrics import REGISTRY
from tracking.service import Service

PING_SECONDS = 2.0
BEHIND_SECONDS = 10.0
"""Above this, `/readyz` says that the hub is behind the change log."""
AWAY_SECONDS = 2.0
"""Above this, `/readyz` says that the broker is away."""


async def healthz(_: Request) -> Response:
    return respond({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Answers 503 with the reasons while the hub can't work, and 200 with `degraded` while it works with restrictions."""
    service = service_of(request)
    reasons = []
    if service.hub.draining:
        reasons.append("this hub is being stopped, and sends its clients to other hubs: send it no new ones")
    try:
        await asyncio.wait_for(service.database.ping(), PING_SECONDS)
    except StoreUnavailable as error:
        reasons.append(str(error))
    except TimeoutError:
        reasons.append(f"PostgreSQL did not answer within {PING_SECONDS:g} s")
    if service.recorder.trouble is not None:
        reasons.append(f"the recorder is not storing: {service.recorder.trouble}")
    if service.recorder.full:
        reasons.append("the recorder's queue is full: drivers are disconnected with 4014")
    keys = service.auth.keys
    if keys is not None and keys.trouble is not None:
        reasons.append(f"no token is accepted: {keys.trouble}")
    follower, degraded = service.follower, []
    if follower.behind > BEHIND_SECONDS:
        degraded.append(f"the change log was not read to its end for {follower.behind:.0f} s: changes by others are not shown")
    if abs(follower.clock.offset) > CLOCK_TOLERANCE_MS:
        seconds = abs(follower.clock.offset) / 1000
        side = "ahead of" if follower.clock.offset > 0 else "behind"
        degraded.append(f"the database's clock is {seconds:.0f} s {side} this host's: set the one that is wrong")
    away = service.nodes.away_seconds
    if away is not None and away > AWAY_SECONDS:
        others = service.registry.others_alive()
        degraded.append(f"the NATS server has been away for {away:.0f} s; other hubs by the database: {others}")
    degraded += service.safeguards.degraded()
    status = "unready" if reasons else "ready"
    body = {"status": status, "reasons": reasons, "degraded": degraded, "nodes": _nodes(service)}
    return respond(body, 503 if reasons else 200)


def _nodes(service: Service) -> dict[str, object]:
    """This hub, and those that it hears by the broker: random ids alone, because everybody may read this."""
    nodes = service.nodes
    return {
        "node": nodes.node.node,
        "connected": nodes.connected if nodes.enabled else None,
        "peers": sorted(nodes.peers),
    }


async def metrics(request: Request) -> Response:
    await require(request, Role.OPERATOR, Role.SERVICE)
    return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)


routes = [
    Route("/healthz", healthz),
    Route("/readyz", readyz),
    Route("/metrics", metrics),
]
