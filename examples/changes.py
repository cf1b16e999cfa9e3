"""Follows a fleet's changes, and goes on from its cursor after a lost connection and after its own restart."""

import json
import os
import random
import time
from pathlib import Path

import httpx

FLEET = f"{os.environ.get('HUB', 'http://127.0.0.1:8000')}/v1/fleets/{os.environ['FLEET']}"
CURSOR = Path(os.environ.get("CURSOR", "changes.cursor"))
http = httpx.Client(headers={"Authorization": f"Bearer {os.environ['TOKEN']}"}, timeout=40)


def follow() -> None:
    # The answer is held until there is a change. Without a cursor it comes at once, and holds the cursor to begin with.
    query = {"after": CURSOR.read_text(), "wait": 30} if CURSOR.exists() else {}
    answer = http.get(f"{FLEET}/changes", params=query).raise_for_status().json()
    if not query:  # what there is now, read after the cursor: no change falls between the two
        print(http.get(f"{FLEET}/trips").raise_for_status().text, flush=True)
    for change in answer["changes"]:
        print(json.dumps(change), flush=True)  # comes again if you stop before the cursor is kept
    CURSOR.with_suffix(".new").write_text(str(answer["last"]))
    CURSOR.with_suffix(".new").replace(CURSOR)


try:
    while True:
        try:
            follow()
        except httpx.HTTPError as error:
            status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 503
            if status == 410:
                CURSOR.unlink()  # changes after it were dropped: begin again
            elif status not in (429, 502, 503, 504):
                raise
            time.sleep(random.uniform(0.5, 3))
except KeyboardInterrupt:
    pass  # Ctrl-C
