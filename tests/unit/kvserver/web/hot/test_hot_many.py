"""Answers of the hot path that are due later: what they charge, and who gives them."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from typing import Any

import pytest

from kvserver.http import routes
from kvserver.http.compression import LARGE, SMALLEST
from kvserver.one_key.answers import Answer
from kvserver.web.context import MakeAnswer
from kvserver.web.exchange import Exchange
from kvserver.web.hot.fields import NOTHING_VARIES
from kvserver.web.hot.hot_many import LaterAnswer
from kvserver.web.hot.hot_request import HotRequest
from kvserver.web.limits.load import LARGE_ANSWER
from shards.wire.errors import KVError, Unavailable
from tests.unit.kvserver.web.hot.connections import Connection, fields_of


async def run(work: bytes | Exception, left: bool = False, stopping: bool = False, accepts: bytes = b"") -> Connection:
    """Let an answer wait for `work`. `left`: its client leaves meanwhile; `stopping`: the worker stops."""
    connection: Any = Connection()
    connection.loop = asyncio.get_running_loop()
    connection.flow.reset = lambda: connection.finished.append("reset")
    fields = fields_of(b"Content-Type: application/json\r\nContent-Length: 9\r\n" + accepts)
    request = HotRequest(connection, "POST", routes.BATCH, b"/v1/batch", fields, NOTHING_VARIES, 0.0)
    begun: list[Callable[[MakeAnswer], None]] = []

    def make_answer() -> Answer:
        if isinstance(work, Exception):
            raise work
        return Answer(200, [("content-type", "application/json")], work, "application/json")

    LaterAnswer(request, None).start(begun.append)
    load, quota = connection.context.load, connection.peer.quota
    assert (load.in_flight, load.bytes_held, quota.in_flight, quota.bytes) == (1, 9, 1, 9)
    connection.answering.disconnected, load.stopping = left, stopping
    begun[0](make_answer)
    while not connection.finished:
        await asyncio.sleep(0.001)
    assert (load.in_flight, load.bytes_held, load.quotas.is_empty) == (0, 0, True)
    return connection


def test_an_answer_is_written_whole() -> None:
    connection = asyncio.run(run(b"[]"))
    assert connection.written.startswith(b"HTTP/1.1 200 ") and connection.written.endswith(b"\r\n\r\n[]")
    assert b"\r\ncontent-type: application/json\r\ncontent-length: 2\r\n" in connection.written
    assert connection.finished == ["write"] and connection.recorded == [("POST", b"/v1/batch", 200)]


def test_a_large_answer_is_counted_until_it_is_read() -> None:
    """By an exchange, as on the ordinary path."""
    connection = asyncio.run(run(b"x" * LARGE_ANSWER))
    assert connection.written.endswith(b"\r\n\r\n" + b"x" * LARGE_ANSWER)
    assert isinstance(connection.answering, Exchange) and connection.finished == [True]


def test_a_worker_that_stops_closes_after_the_answer() -> None:
    connection = asyncio.run(run(b"[]", stopping=True))
    assert b"\r\nconnection: close\r\n" in connection.written and connection.finished == [False]


@pytest.mark.parametrize("work", [b"[]", Unavailable(), RuntimeError("on purpose")], ids=str)
def test_a_client_that_left_gets_nothing(work: bytes | Exception) -> None:
    connection = asyncio.run(run(work, left=True))
    assert isinstance(connection.answering, Exchange)
    assert connection.written == b"" and connection.recorded == [("POST", b"/v1/batch", 499)]


@pytest.mark.parametrize(("error", "status"), [(Unavailable(), 503), (KVError(), 500), (RuntimeError("fault"), 500)])
def test_an_error_is_answered(error: Exception, status: int) -> None:
    connection = asyncio.run(run(error))
    assert connection.written.startswith(b"HTTP/1.1 %d " % status) and connection.finished == [True]


@pytest.mark.parametrize("size", [SMALLEST - 1, SMALLEST, LARGE])
@pytest.mark.parametrize("stopping", [False, True])
def test_an_answer_is_coded_if_that_is_wanted(size: int, stopping: bool) -> None:
    connection = asyncio.run(run(b"x" * size, stopping=stopping, accepts=b"Accept-Encoding: gzip\r\n"))
    head, _, body = connection.written.partition(b"\r\n\r\n")
    assert (b"\r\ncontent-encoding: gzip\r\n" in head) == (size >= SMALLEST)
    assert (gzip.decompress(body) if size >= SMALLEST else body) == b"x" * size
