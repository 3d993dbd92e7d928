"""Fingerprints: one that nobody guesses, for a client that has none of its own."""

import secrets

from starlette.responses import Response

from service import limits
from service.web.endpoints import Call
from service.web.responses import FingerprintResponse, respond


async def create_fingerprint(_: Call) -> Response:
    """Make a fingerprint; nothing of it is kept."""
    return respond(FingerprintResponse(secrets.token_urlsafe(limits.FINGERPRINT_BYTES)), 201)
