"""Watch a stream with httpx-sse; reconnecting is left to its user.

``watch_httpx_sse.py <the stream's URL>`` prints the id and the data of each event that it receives.
"""

import json
import sys
import time

import httpx
from httpx_sse import connect_sse

(url,) = sys.argv[1:]
last_id, retry_seconds = "", 1.0
with httpx.Client(timeout=None) as client:  # noqa: S113 - a stream may be quiet
    while True:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        try:
            with connect_sse(client, "GET", url, headers=headers) as source:
                for event in source.iter_sse():
                    print(json.dumps({"id": event.id, "data": event.data}), flush=True)
                    json.loads(event.data)
                    last_id = event.id
                    retry_seconds = (event.retry or 1000) / 1000
        except httpx.TransportError:
            pass  # the service is not there
        time.sleep(retry_seconds)
