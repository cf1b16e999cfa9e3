"""Response headers for browsers: caching, content types, and the content security policy."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tracking.config import Settings

HSTS = "max-age=31536000"
"""A year of https, for this host alone and not for its subdomains."""
NO_SNIFFING = {"X-Content-Type-Options": "nosniff"}
NOT_KEPT = {"Cache-Control": "no-store", **NO_SNIFFING}
"""For answers with positions or keys, and for all answers without a rule of their own."""
_FEATURES = (
    *("accelerometer", "camera", "display-capture", "geolocation", "gyroscope", "magnetometer", "microphone", "midi"),
    *("payment", "usb"),
)
"""Browser features that no page of ours uses."""
_OF_PAGES = {
    # The link's fragment is a key. So no other site may learn the page's address, frame it, or run a script in it.
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": ", ".join(f"{feature}=()" for feature in _FEATURES),
    "Cache-Control": "no-cache",
    **NO_SNIFFING,
}
_SUBDOMAINS = "abc"
"""The values of `{s}` in Leaflet's tile URLs."""


def of_pages(tiles: str) -> dict[str, str]:
    """The headers of a page. `tiles` is the template of its raster tiles; empty: the hub's own map."""
    return {**_OF_PAGES, "Content-Security-Policy": _policy(tiles)}


def _policy(tiles: str) -> str:
    """The content security policy: our own host, and the tile servers if there are any."""
    hosts = ""
    if tiles.startswith(("http://", "https://")):
        scheme, _, rest = tiles.partition("://")
        host = rest.partition("/")[0]
        hosts = "".join(f" {found}" for found in sorted({f"{scheme}://{host.replace('{s}', one)}" for one in _SUBDOMAINS}))
    return (
        "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline';"
        f" img-src 'self' data: blob:{hosts}; connect-src 'self'{hosts}; worker-src 'self' blob:;"
        " object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def of_answers(settings: Settings) -> dict[str, str]:
    """The headers of every answer that does not set them itself."""
    return {**NOT_KEPT, "Strict-Transport-Security": HSTS} if settings.public_url.startswith("https://") else NOT_KEPT


class Headers:
    """Middleware that adds `of_answers`."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._headers = of_answers(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)
