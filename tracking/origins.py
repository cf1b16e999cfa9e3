"""Origins and the hub's public address, compared as URLs are: case, default ports and spellings of a host do not matter.

An origin is scheme, host and port (RFC 6454), in the one form that browsers send: `https://track.example`, `http://[::1]:8000`.
"""

import ipaddress
import re
from collections.abc import Set
from urllib.parse import urlsplit

import idna

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*\Z")
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?\Z")
_SEGMENT = re.compile(r"[A-Za-z0-9._~-]+\Z")
# If a proxy removes the prefix, a path below one of these would look like one that still has the prefix.
_OUR_OWN = frozenset(
    (
        *("v1", "trip", "fleet", "view", "drive", "ops", "in", "web", "web-config.json", "healthz", "readyz", "metrics"),
        *("docs", "openapi.json", "asyncapi.json"),
    )
)


def origin_of(text: str) -> str | None:
    """The origin that `text` names, as browsers write it. None if it names none, such as `null` or a URL with a path."""
    try:
        return parse_origin(text)
    except ValueError:
        return None


def parse_origin(text: str) -> str:
    """The same. Raises `ValueError` with the reason if it is none."""
    origin, path = _split(text)
    if path not in ("", "/"):
        raise ValueError(f"`{text}` has a path: an origin is scheme, host and port alone, as https://track.example")
    return origin


def parse_address(text: str) -> tuple[str, str]:
    """Origin and prefix of a public address: `https://Host:443/track/` -> `("https://host", "/track")`.

    Raises `ValueError` with the reason if it cannot be used.
    """
    origin, path = _split(text)
    if not origin.startswith(("http://", "https://")):
        raise ValueError(f"`{text}` must start with http:// or https://")
    path = path.rstrip("/")
    segments = path.split("/")[1:]
    for segment in segments:
        if not _SEGMENT.match(segment) or set(segment) == {"."}:
            raise ValueError(f"`{text}`: the segments of its path must be of A-Z a-z 0-9 . _ ~ -, as https://host/track")
    if segments and segments[0] in _OUR_OWN:
        raise ValueError(
            f"`{text}`: its path must not begin with `/{segments[0]}`, which is a path of the hub itself: take another"
        )
    return origin, path


def may_open(origin: str, host: str, allowed: Set[str], *, public: bool) -> bool:
    """Whether a page of this origin may open a socket, asked for with this `Host`.

    `allowed` are origins as browsers write them. `public` says whether a public address is set. Without one, a page may also
    open a socket at the host that it came from, if that host is an address or a name that no site can have. Any other name may
    belong to a site that resolves to this hub for a while (DNS rebinding).
    """
    asked = origin_of(origin)
    if asked is None:
        return False
    if asked in allowed:
        return True
    scheme, _, place = asked.partition("://")
    return not public and asked == origin_of(f"{scheme}://{host}") and _is_no_sites(urlsplit(f"//{place}").hostname or "")


def is_loopback(origin: str) -> bool:
    """Whether its host is the reader's own machine."""
    host = urlsplit(origin).hostname or ""
    return host == "localhost" or host.endswith(".localhost") or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_no_sites(host: str) -> bool:
    """Whether no site of the Internet can have this host: an address, a name without a dot, or a local name."""
    return _is_address(host) or "." not in host or host.endswith((".localhost", ".local"))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _split(text: str) -> tuple[str, str]:
    if text == "null":
        raise ValueError("`null` is no origin: any sandboxed page and any file has it")
    if text != text.strip() or not text.isprintable():
        raise ValueError(f"{text!r} has blanks or controls in it")
    parts = urlsplit(text)
    if not parts.netloc or not _SCHEME.match(parts.scheme):
        raise ValueError(
            f"`{text}` is no origin: write scheme, host and port, as https://track.example or http://localhost:8000"
        )
    if "@" in parts.netloc or "?" in text or "#" in text or "\\" in text:
        raise ValueError(f"`{text}` has more in it than scheme, host, port and path: leave out user, query and fragment")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"`{text}`: the port must be a number from 0 to 65535") from None
    host = _host(parts.hostname or "", parts.netloc.startswith("["))
    if host is None:
        raise ValueError(f"`{text}`: `{parts.hostname or ''}` is no host's name or address")
    shown = "" if port is None or port == _DEFAULT_PORTS.get(parts.scheme) else f":{port}"
    return f"{parts.scheme}://{host}{shown}", parts.path


def _host(name: str, bracketed: bool) -> str | None:
    if bracketed:
        try:
            return f"[{ipaddress.IPv6Address(name).compressed}]"
        except ValueError:
            return None
    name = name.lower()
    if not name.isascii():
        try:
            # As browsers do (UTS 46).
            name = idna.encode(name, uts46=True, transitional=False).decode()
        except idna.IDNAError:
            return None
    return name if _HOST.match(name) else None
