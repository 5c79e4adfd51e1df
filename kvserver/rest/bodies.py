"""Checks of request bodies in version 1: media type, content coding, JSON."""

from __future__ import annotations

import asyncio
from typing import Final

from falcon.asgi import Request

from kvserver.api.scan import duplicate_names, json_scan
from kvserver.http import idempotency
from kvserver.http.idempotency import RequestMark
from kvserver.http.scope import GRANTS
from kvserver.http.value_headers import FORM, media_type, read_content_type
from kvserver.rest.turns import run_in_turns
from shards.wire.errors import BadRequest, UnsupportedMediaType
from shards.wire.json_text import strip_byte_order_mark

_LARGE: Final = 256 << 10
_OF_PAGES: Final = (b"origin", b"sec-fetch-site")
"""Headers that only browsers send; pages cannot omit them where that would be dangerous."""


class OtherType(UnsupportedMediaType):
    """The Content-Type is one that the route does not accept."""

    hint = "State the type of the body: `Content-Type: application/json`. Pages in browsers must."


def content_type(req: Request) -> str:
    """Return the Content-Type header, empty without one. Raises `BadRequest` if it comes twice."""
    return read_content_type(content_types(req))


def content_types(req: Request) -> list[str]:
    """Return the values of all headers Content-Type."""
    return [value.decode("latin-1") for name, value in req.scope["headers"] if name == b"content-type"]


def own_type(req: Request, *types: str) -> str:
    """Return the media type of a body if it is one of `types`; empty without one, and for the default of `curl -d`.

    Pages have to name the type: a browser sends bodies without one, and forms, to any server without a preflight
    (Fetch, 4.9). Raises `OtherType`.
    """
    given = media_type(content_type(req))
    if given in types:
        return given
    by_page = any(name in _OF_PAGES for name, _ in req.scope["headers"])
    if given not in ("", FORM) or by_page:
        why = ", of a page in a browser" if by_page else ""
        raise OtherType(f"Content-Type: expected {' or '.join(types)}{why}, not {given or 'none'}")
    return ""


def refuse_coded(req: Request) -> None:
    """Raise `UnsupportedMediaType` if the body has a coding: it would be stored, and served, as if it had none."""
    coding = req.get_header("Content-Encoding")
    if coding is not None:
        raise UnsupportedMediaType(f"Content-Encoding: {coding}")


async def read_json(req: Request) -> bytes:
    """Receive a JSON body; return it without a byte order mark. Raises `BadRequest` if an object has a name twice."""
    text = strip_byte_order_mark(await req.stream.read())
    if len(text) <= duplicate_names.LARGE:
        duplicate_names.refuse_in_json(text)
    await refuse_large_doubles(text)
    return text


async def refuse_large_doubles(text: bytes) -> None:
    """Raise `BadRequest` if an object in a JSON text above `duplicate_names.LARGE` bytes has a name twice."""
    if len(text) > duplicate_names.LARGE and (name := await run_in_turns(json_scan.find_double(text))) is not None:
        raise duplicate_names.duplicate_error(name)


async def mark_request(
    req: Request, given: bytes, path: bytes, content_type: str = "", body: bytes = b""
) -> RequestMark | None:
    """Return what a request with the Idempotency-Key `given` is known by; None if that is empty.

    See `idempotency.mark_request`. A large body is hashed in a thread.
    """
    if not given:
        return None
    scope = req.scope
    decisive = (given, scope[GRANTS].name, req.method, path, scope["query_string"], content_type, scope["headers"])
    if len(body) < _LARGE:
        return idempotency.mark_request(*decisive, body)
    return await asyncio.get_running_loop().run_in_executor(None, idempotency.mark_request, *decisive, body)


async def refuse_any(req: Request) -> None:
    """Raise `BadRequest` if there is a body: its sender expects it to have an effect."""
    if req.content_length or await req.stream.read():
        raise BadRequest("this request takes no body: the URL says what to do")
