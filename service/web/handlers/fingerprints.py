"""Fingerprints: random ones, for clients that have none of their own."""

import secrets

from starlette.responses import Response

from service import limits
from service.web.endpoints import Call
from service.web.responses import FingerprintResponse, respond


async def create_fingerprint(_: Call) -> Response:
    """Create a random fingerprint. The service does not store it.

    It cannot be guessed. Keep it secret: it proves who owns the tickets reserved with it.
    """
    return respond(FingerprintResponse(secrets.token_urlsafe(limits.FINGERPRINT_BYTES)), 201)
