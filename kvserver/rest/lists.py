"""Answers that are JSON arrays of keys: with a length while they are small, streamed from `STREAM_FROM` on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from falcon.asgi import Request, Response

from kvserver.rest.values import answer_body
from kvserver.web.context import WorkerContext
from kvserver.web.limits.address_quotas import Quota
from kvserver.web.limits.load import LARGE_ANSWER

STREAM_FROM: Final = 1 << 20
"""Lists from this size on are streamed; smaller ones have a Content-Length, which MemoryKV's C client needs."""


async def answer_list(req: Request, resp: Response, chunks: AsyncIterator[bytes]) -> None:
    """Answer with `chunks`, the text of a list."""
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
    """Yield the JSON array of the keys on `pages`, page by page."""
    before = b"["
    async for page in pages:
        if page:
            yield before + msgspec.json.encode([key.decode() for key in page])[1:-1]
            before = b","
    yield b"]" if before == b"," else b"[]"


async def no_pages() -> AsyncIterator[list[bytes]]:
    """Yield no page."""
    return
    yield []  # makes it an iterator


async def refuse_if_full(
    chunks: AsyncIterator[bytes], context: WorkerContext, quota: Quota | None
) -> AsyncIterator[bytes]:
    """Yield `chunks`; raise `Overloaded` if they are a large answer and the `quota` has no room for it.

    An answer that has begun is completed: each of its chunks waits for the client to take the one before.
    """
    size = 0
    async for chunk in chunks:
        if size < STREAM_FROM:
            size += len(chunk)
            if size >= LARGE_ANSWER:
                context.load.check_answer_budget(quota)
        yield chunk


async def spool_chunks(
    chunks: AsyncIterator[bytes], context: WorkerContext, quota: Quota | None
) -> AsyncIterator[bytes]:
    """Yield `chunks`, which a task consumes at full speed and to their end, even if this iterator is abandoned.

    Chunks in the spool are charged to `quota` as an answer that its address has not taken.
    """
    spool: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
    task = asyncio.get_running_loop().create_task(_fill_spool(spool, chunks, context, quota))
    context.tasks.add(task)
    task.add_done_callback(context.tasks.discard)
    while (chunk := await spool.get()) is not None:
        if isinstance(chunk, Exception):
            raise chunk
        context.load.owe_bytes(quota, -len(chunk))
        yield chunk


async def _fill_spool(
    spool: asyncio.Queue[bytes | Exception | None],
    chunks: AsyncIterator[bytes],
    context: WorkerContext,
    quota: Quota | None,
) -> None:
    """Put `chunks` into the spool, then None, or the exception that ended them."""
    try:
        async for chunk in chunks:
            context.load.owe_bytes(quota, len(chunk))
            spool.put_nowait(chunk)
    except Exception as error:
        spool.put_nowait(error)
    else:
        spool.put_nowait(None)
