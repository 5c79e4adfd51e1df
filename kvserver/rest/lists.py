"""Answers that are JSON arrays of keys: with a length while they are small, streamed from `STREAM_FROM` on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from falcon.asgi import Request, Response

from kvserver.rest.values import answer_body
from kvserver.web.address_quotas import Share
from kvserver.web.traffic import LARGE_ANSWER, Traffic

STREAM_FROM: Final = 1 << 20
"""Lists from this size on are streamed; smaller ones have a Content-Length, which MemoryKV's C client needs."""


async def answer_list(req: Request, resp: Response, chunks: AsyncIterator[bytes]) -> None:
    """Make `chunks`, the text of a list, the answer's."""
    resp.content_type = "application/json"
    begun: list[bytes] = []
    size = 0
    async for chunk in chunks:
        begun.append(chunk)
        size += len(chunk)
        if size >= STREAM_FROM:
            resp.stream = _stream_on(begun, chunks)
            return
    await answer_body(req, resp, b"".join(begun))


async def _stream_on(begun: list[bytes], chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield b"".join(begun)
    begun.clear()
    async for chunk in chunks:
        yield chunk


async def encode_array(pages: AsyncIterator[list[bytes]]) -> AsyncIterator[bytes]:
    """The JSON array of the keys on `pages`, page by page."""
    before = b"["
    async for page in pages:
        if page:
            yield before + msgspec.json.encode([key.decode() for key in page])[1:-1]
            before = b","
    yield b"]" if before == b"," else b"[]"


async def no_pages() -> AsyncIterator[list[bytes]]:
    """No page."""
    return
    yield []  # makes it an iterator


async def refuse_if_full(chunks: AsyncIterator[bytes], traffic: Traffic, share: Share | None) -> AsyncIterator[bytes]:
    """`chunks`, to the address of `share`; raises `Overloaded` if they turn out to be a large answer for which there is
    no room.

    Where the answer has begun, it goes on: then each chunk has waited for the one before to be taken.
    """
    size = 0
    async for chunk in chunks:
        if size < STREAM_FROM:
            size += len(chunk)
            if size >= LARGE_ANSWER:
                traffic.check_room(share)
        yield chunk


async def spool_chunks(chunks: AsyncIterator[bytes], traffic: Traffic, share: Share | None) -> AsyncIterator[bytes]:
    """`chunks`, which are taken as fast as they come, by a task that goes on whatever becomes of this iterator.

    Those that were not asked for yet count as an answer that the address of `share` has not taken yet.
    """
    spool: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
    task = asyncio.get_running_loop().create_task(_fill_spool(spool, chunks, traffic, share))
    traffic.tasks.add(task)
    task.add_done_callback(traffic.tasks.discard)
    while (chunk := await spool.get()) is not None:
        if isinstance(chunk, Exception):
            raise chunk
        traffic.owe(share, -len(chunk))
        yield chunk


async def _fill_spool(
    spool: asyncio.Queue[bytes | Exception | None], chunks: AsyncIterator[bytes], traffic: Traffic, share: Share | None
) -> None:
    """Ends with None, or with what was raised."""
    try:
        async for chunk in chunks:
            traffic.owe(share, len(chunk))
            spool.put_nowait(chunk)
    except Exception as error:
        spool.put_nowait(error)
    else:
        spool.put_nowait(None)
