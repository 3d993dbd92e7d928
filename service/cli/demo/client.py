"""The demo's client: HTTP over loopback, as any client of the service speaks it.

It is the standard library's: nothing more to install for a command that is run once, and quick
enough for a rate that one can watch.
"""

import asyncio
import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from service.serving import CannotServe

CONNECTIONS = 48
ANSWER_SECONDS = 10
TRIES = 5
"""Of a request that the service was too busy for, or that got no answer."""


class Answer(NamedTuple):
    """A status, and the body's JSON."""

    status: int
    body: Any

    @property
    def code(self) -> str:
        """Of a refusal; '' of anything else."""
        return str(self.body.get("code", "")) if isinstance(self.body, dict) else ""


class Client:
    """Sends requests over connections that are kept, one in each of its threads."""

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc
        self._threads = ThreadPoolExecutor(CONNECTIONS)
        self._own = threading.local()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    async def send(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send a request, again while the service is too busy or no answer comes."""
        loop = asyncio.get_running_loop()
        for _ in range(TRIES):
            answer = await loop.run_in_executor(
                self._threads, self._send, method, path, body, headers or {}
            )
            if answer.status != HTTPStatus.SERVICE_UNAVAILABLE:
                break
            await asyncio.sleep(1)
        return answer

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """Send a request that nothing should refuse, and return the JSON of its answer.

        Raises:
            CannotServe: when something does.
        """
        answer = await self.send(method, path, body)
        if answer.status >= HTTPStatus.BAD_REQUEST:
            told = f"{answer.status} {answer.code}"
            raise CannotServe(f"the demo's service answers {method} {path} with {told}")
        return answer.body

    def _send(self, method: str, path: str, body: object, headers: dict[str, str]) -> Answer:
        if not hasattr(self._own, "connection"):
            self._own.connection = http.client.HTTPConnection(self._host, timeout=ANSWER_SECONDS)
        connection: http.client.HTTPConnection = self._own.connection
        if body is not None:
            headers = {**headers, "Content-Type": "application/json"}
        try:
            connection.request(method, path, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            return Answer(answer.status, json.loads(answer.read()))
        except (OSError, http.client.HTTPException):
            connection.close()  # the next request opens it anew
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, {"code": "NO_ANSWER"})
