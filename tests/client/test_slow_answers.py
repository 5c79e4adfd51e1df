"""Answers that never end: a client waits for its timeout and no longer, whatever drips."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from kvserver.client import AsyncClient, Client, NotAnswered
from tests.client.canned import CannedServer

HEAD = b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 4000 + b"\r\nContent-Length: 4\r\n\r\npong"
BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n" + b"x" * 4000
CHUNK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 4000


@pytest.fixture
def dripping() -> Iterator[CannedServer]:
    with CannedServer() as server:
        server.pause_s = 0.02
        server.drips_head = True
        yield server


@pytest.mark.parametrize("answer", [HEAD, BODY, CHUNK], ids=["head", "body", "chunk"])
def test_an_answer_that_drips_is_given_up(dripping: CannedServer, answer: bytes) -> None:
    """Each would take 80 seconds."""
    dripping.answers.append(answer)

    async def ask() -> None:
        async with AsyncClient(dripping.url, timeout=0.3, patience=0) as kv:
            await kv.ping()

    started_at = time.monotonic()
    with Client(dripping.url, timeout=0.3, patience=0) as kv, pytest.raises(NotAnswered):
        kv.ping()
    with pytest.raises(NotAnswered):
        asyncio.run(ask())
    assert time.monotonic() - started_at < 40  # not a measurement: half of what one whole answer takes
