"""The demo's HTTP client, which needs only the standard library."""

import asyncio
import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from service.cli.errors import CommandFailed

CONNECTIONS = 48
TIMEOUT_SECONDS = 10
TRIES = 5  # of a request that gets 503 or no response


class Response(NamedTuple):
    """A status and the body's JSON."""

    status: int
    body: Any

    @property
    def code(self) -> str:
        """The code of a refusal; "" for any other response."""
        return str(self.body.get("code", "")) if isinstance(self.body, dict) else ""


class Client:
    """Sends requests in threads, each of which keeps one connection open."""

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc
        self._threads = ThreadPoolExecutor(CONNECTIONS)
        self._local = threading.local()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    async def send(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> Response:
        """Send a request; retry it while the service is too busy or does not respond."""
        loop = asyncio.get_running_loop()
        for _ in range(TRIES):
            response = await loop.run_in_executor(
                self._threads, self._send, method, path, body, headers or {}
            )
            if response.status != HTTPStatus.SERVICE_UNAVAILABLE:
                break
            await asyncio.sleep(1)
        return response

    async def fetch(self, method: str, path: str, body: object = None) -> Any:
        """Send a request that must succeed, and return the JSON of its response.

        Raises:
            CommandFailed: when the service refuses it.
        """
        response = await self.send(method, path, body)
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise CommandFailed(
                f"the demo's service refuses {method} {path}: {response.status} {response.code}"
            )
        return response.body

    def _send(self, method: str, path: str, body: object, headers: dict[str, str]) -> Response:
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection(self._host, timeout=TIMEOUT_SECONDS)
        connection: http.client.HTTPConnection = self._local.connection
        if body is not None:
            headers = {**headers, "Content-Type": "application/json"}
        try:
            connection.request(method, path, json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            return Response(response.status, json.loads(response.read()))
        except (OSError, http.client.HTTPException):
            connection.close()  # the next request opens it again
            return Response(HTTPStatus.SERVICE_UNAVAILABLE, {"code": "NO_RESPONSE"})
