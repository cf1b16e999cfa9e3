"""Log lines: their form, and what must not stand in them."""

import logging
import os
import re
import sys


class _Redacted(logging.Formatter):
    """Removes tokens from every log line."""

    _token = re.compile(r"eyJ[\w-]+\.[\w-]+\.?[\w-]*")

    def format(self, record: logging.LogRecord) -> str:
        return self._token.sub("[token]", super().format(record))


def set_up_logging(process: str = "") -> None:
    """Writes log lines to the standard error. `process` names this one in each line, where several write there."""
    handler = logging.StreamHandler(sys.stderr)
    named = f" [{process.replace('%', '%%')} {os.getpid()}]" if process else ""
    handler.setFormatter(_Redacted(f"%(asctime)s %(levelname)s{named} %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # httpx would log a line for each reading of the JWKS.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Metrics count the sockets that open and close. Log lines would add nothing.
    logging.getLogger("uvicorn.error").addFilter(
        lambda record: not str(record.msg).startswith(('%s - "WebSocket', "connection open", "connection closed"))
    )
