"""Whether a hub that begins can take over from another."""

from tracking.service import Service


def unready(service: Service) -> str | None:
    """What a hub still waits for before it serves as well as its peers; None: nothing."""
    registry, nodes, keys = service.registry, service.nodes, service.auth.keys
    if not registry.admitted:
        return "the database does not know this hub yet"
    if service.auth.revoked is None:
        return "the revoked tokens are not read yet"
    if keys is not None and keys.trouble is not None:
        return keys.trouble
    if service.follower.confirmed_at is None:
        return "the change log is not read yet"
    if nodes.enabled and not nodes.connected:
        return "the NATS server does not answer yet"
    unheard = [other.name for other in registry.others if other.node not in nodes.peers]
    if nodes.enabled and unheard:
        return f"not heard yet of {', '.join(unheard)}"
    return None
