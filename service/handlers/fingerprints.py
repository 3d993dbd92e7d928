"""Fingerprints: one that nobody guesses, for a client that has none of its own."""

import secrets

from starlette.responses import Response

from service.answers import respond
from service.calls import Call

FINGERPRINT_BYTES = 32
"""256 random bits."""


async def create_fingerprint(_: Call) -> Response:
    """Make a fingerprint; nothing of it is kept."""
    return respond({"userFingerprint": secrets.token_urlsafe(FINGERPRINT_BYTES)}, 201)
