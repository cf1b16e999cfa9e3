"""The hub as any ASGI server would run it, without the protocols of ours: `python -m tests.sockets.plain_hub PORT`."""

import sys

import uvicorn

from tracking.app import create_app
from tracking.config import load
from tracking.protocol.codec import MAX_FRAME_BYTES

if __name__ == "__main__":
    uvicorn.run(
        create_app(load()),
        port=int(sys.argv[1]),
        ws="websockets-sansio",
        ws_max_size=MAX_FRAME_BYTES,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=5,
        access_log=False,
    )
