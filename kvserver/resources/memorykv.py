"""The routes at the root, as MemoryKV serves them: ping, one key, lists of keys, prefix deletes, the feed's door.

Everything is `application/octet-stream`, an absent key reads as empty, and a write answers what it replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from falcon.asgi import Request, Response

from kvserver.router import Router
from kvserver.web import coding, handshake
from kvserver.web.answers import WrongMethod
from kvserver.web.exchange import SCRIPT
from shards.errors import BadRequest, Forbidden, KeyTooLong, NotFound
from shards.limits import MAX_KEY, is_content_type
from shards.protocol import Delete, Put

OCTETS: Final = "application/octet-stream"
_FORM: Final = "application/x-www-form-urlencoded"  # what `curl -d` says of everything

STREAM_FROM: Final = 1 << 20
"""Lists from this size on are streamed; smaller ones have a Content-Length, which MemoryKV's C client needs."""


async def answer(req: Request, resp: Response, body: bytes, content_type: str = "") -> str:
    """Make `body` the answer's, coded if the client accepts that, and if a body of `content_type` is worth it.

    Returns the coding, empty for none.
    """
    if coding.SMALLEST <= len(body) <= coding.LARGEST and (accepted := req.get_header("Accept-Encoding")):
        name = coding.choose(accepted)
        if name is not None and coding.is_codable(content_type):
            coder = coding.CODERS[name]
            if len(body) < coding.LARGE:
                coded = coder(body)
            else:
                coded = await asyncio.get_running_loop().run_in_executor(None, coder, body)
            if len(coded) < len(body):
                resp.set_header("Content-Encoding", name)
                resp.data = coded
                return name
    resp.data = body
    return ""


class Ping:
    """`/ping`"""

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 `pong`."""
        resp.content_type = OCTETS
        resp.data = b"pong"

    on_head = on_get


class Key:
    """`/{key}`"""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def on_get(self, req: Request, resp: Response, key: bytes) -> None:
        """200 with the value, empty if there is none."""
        if SCRIPT in req.scope:
            raise Forbidden("a value is not given out as a service worker")
        resp.content_type = OCTETS
        if len(key) > MAX_KEY:
            self._router.activity("read", key)
            resp.data = b""
            return
        item = self._router.get(key)
        if item is None:
            resp.data = b""
        elif len(item.value) < coding.SMALLEST:
            resp.data = item.value
        else:
            await answer(req, resp, item.value, item.content_type)

    on_head = on_get

    async def on_put(self, req: Request, resp: Response, key: bytes) -> None:
        """200 with the value that was replaced, empty if there was none."""
        if len(key) > MAX_KEY:
            raise KeyTooLong(f"{len(key)} bytes")
        value = await req.stream.read()
        done = await self._router.request(Put(key, value, _content_type(req), want_previous=True))
        resp.content_type = OCTETS
        await answer(req, resp, done.previous or b"")

    async def on_delete(self, req: Request, resp: Response, key: bytes) -> None:
        """200 with the value that was deleted, 404 if there was none."""
        if len(key) > MAX_KEY:
            self._router.activity("delete", key)
            raise NotFound
        done = await self._router.request(Delete(key, want_previous=True))
        if not done.existed:
            raise NotFound
        resp.content_type = OCTETS
        await answer(req, resp, done.previous or b"")


def _content_type(req: Request) -> str:
    """The type to store: "" where none is given that could be used. These routes refuse no type."""
    given: str = req.content_type or ""
    if given.partition(";")[0].strip().lower() == _FORM or not is_content_type(given):
        return ""
    return given


class Keys:
    """`/keys`"""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 with the JSON array of all keys."""
        await _answer_list(req, resp, self._router.keys(b""))

    on_head = on_get

    async def on_delete(self, req: Request, resp: Response) -> None:
        """Delete everything: 200, empty."""
        async for _ in self._router.delete_prefix(b""):
            pass
        resp.data = b""


class Prefix:
    """`/keys/{prefix}`"""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def on_get(self, req: Request, resp: Response, key: bytes) -> None:
        """200 with the JSON array of the keys that start with the prefix."""
        if len(key) > MAX_KEY:
            self._router.activity("list_prefix", key)
            await _answer_list(req, resp, _nothing())
        else:
            await _answer_list(req, resp, self._router.keys(key))

    on_head = on_get

    async def on_delete(self, req: Request, resp: Response, key: bytes) -> None:
        """Delete the keys that start with the prefix: 200 with the JSON array of them."""
        if len(key) > MAX_KEY:
            self._router.activity("delete_prefix", key)
            await _answer_list(req, resp, _nothing())
        else:
            await _answer_list(req, resp, self._router.delete_prefix(key))


class Feed:
    """`/wal`, `/v1/feed`: WebSocket handshakes go to the gateway before they come here; what comes is none."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """400, naming what is missing."""
        why = handshake.refusal(req.scope["http_version"], req.scope["headers"])
        raise BadRequest(why or "this connection cannot be given to the gateway")

    async def on_head(self, req: Request, resp: Response) -> None:
        """405: a feed has no head without a body."""
        raise WrongMethod("GET")


async def _nothing() -> AsyncIterator[list[bytes]]:
    return
    yield []  # makes it an iterator


async def _answer_list(req: Request, resp: Response, pages: AsyncIterator[list[bytes]]) -> None:
    resp.content_type = "application/json"
    chunks = _json_array(pages)
    begun: list[bytes] = []
    size = 0
    async for chunk in chunks:
        begun.append(chunk)
        size += len(chunk)
        if size >= STREAM_FROM:
            resp.stream = _go_on(begun, chunks)
            return
    await answer(req, resp, b"".join(begun))


async def _go_on(begun: list[bytes], chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield b"".join(begun)
    begun.clear()
    async for chunk in chunks:
        yield chunk


async def _json_array(pages: AsyncIterator[list[bytes]]) -> AsyncIterator[bytes]:
    before = b"["
    async for page in pages:
        if page:
            yield before + msgspec.json.encode([key.decode() for key in page])[1:-1]
            before = b","
    yield b"]" if before == b"," else b"[]"
