"""Bodies of answers in the coding that their client accepts; large ones are coded in a thread."""

from __future__ import annotations

import asyncio

from kvserver.http import compression


async def encode_body(accept_encoding: str | None, body: bytes, content_type: str) -> tuple[str, bytes]:
    """Return the coding in which `body` is sent to a client with this Accept-Encoding, empty for none, and `body` in
    it."""
    coding = compression.choose_for(accept_encoding, content_type, len(body))
    if coding is None:
        return "", body
    if len(body) < compression.LARGE:
        return compression.encode(coding, body)
    return await asyncio.get_running_loop().run_in_executor(None, compression.encode, coding, body)
