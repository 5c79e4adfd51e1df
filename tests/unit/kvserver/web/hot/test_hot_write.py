"""Writes of the hot path: what they charge, and who answers."""

from __future__ import annotations

import asyncio
import gzip
from types import SimpleNamespace
from typing import Any

import pytest

from kvserver.access.grants import Grants
from kvserver.http import routes
from kvserver.http.compression import LARGE, SMALLEST
from kvserver.one_key.changes import Change
from kvserver.web.exchange import Exchange
from kvserver.web.hot.fields import NOTHING_VARIES
from kvserver.web.hot.hot_request import HotRequest
from kvserver.web.hot.hot_write import HotWrite, KeyChange, RootWrite
from kvserver.web.limits.load import LARGE_ANSWER
from shards.wire.errors import OutcomeUnknown, PreconditionFailed
from shards.wire.protocol import Delete, Done, Failed, Incr, Patch, Put, Replaced, Replayed, Value
from tests.unit.kvserver.web.hot.connections import Connection, fields_of


def begin(
    connection: Any, change: Change, at_root: bool, accepts: bytes = b"", grants: Grants | None = None
) -> HotWrite:
    """A write that is under way."""
    has_body = isinstance(change, Put)
    fields = fields_of((b"Content-Length: 3\r\n" if has_body else b"") + accepts)
    store: Any = SimpleNamespace(
        board=SimpleNamespace(last_revision=lambda: 0),
        report_missed_delete=lambda key, end: connection.recorded.append(("absent", key, end)),
    )
    route, path = (routes.KEY, b"/k") if at_root else (routes.KV, b"/v1/kv/k")
    request = HotRequest(connection, "PUT" if has_body else "DELETE", route, path, fields, NOTHING_VARIES, 0)
    return (RootWrite if at_root else KeyChange)(request, store, grants, change, 4)


PUT, DELETE = Put(b"k", b"abc"), Delete(b"k")


def is_given_back(connection: Any) -> bool:
    load = connection.context.load
    return (load.in_flight, load.bytes_held, load.quotas.is_empty) == (0, 0, True)


def test_a_write_is_complete_and_in_flight_when_it_is_made() -> None:
    connection = Connection()
    write = begin(connection, PUT, True)
    assert (write.count, write.size, write.operations) == (1, 4, (PUT,)) and write.deadline_ns > 0
    load, quota = connection.context.load, connection.peer.quota
    assert (load.in_flight, load.bytes_held, quota.in_flight, quota.bytes) == (1, 3, 1, 3)


@pytest.mark.parametrize("change", [PUT, DELETE])
def test_at_the_root_the_old_value_is_the_answer(change: Change) -> None:
    connection = Connection()
    begin(connection, change, True).answer(iter([Done(7, True, b"old")]))
    head, _, body = connection.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ") and body == b"old" and b"etag" not in head
    assert connection.finished == ["write"] and is_given_back(connection)


@pytest.mark.parametrize(
    ("change", "reply", "status", "names"),
    [
        (PUT, Done(7, False), 201, b"etag kv-revision"),
        (PUT, Done(7, True), 204, b"etag kv-revision"),
        (PUT, Replayed(Done(7, True)), 204, b"idempotency-replayed etag kv-revision"),
        (DELETE, Done(7, True), 204, b"kv-revision"),
        (Incr(b"k", 1), Value(7, True, b"2"), 200, b"content-type cache-control etag kv-revision"),
    ],
)
def test_in_version_1_the_rules_say_the_answer(change: Change, reply: Any, status: int, names: bytes) -> None:
    connection = Connection()
    begin(connection, change, False).answer(iter([reply]))
    head = connection.written.partition(b"\r\n\r\n")[0]
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert all(b"\r\n%b: " % name in head for name in names.split())
    assert (b"etag" in head) == (b"etag" in names)
    assert connection.finished == ["write"] and is_given_back(connection)


@pytest.mark.parametrize("at_root", [True, False])
def test_an_error_is_written_at_once(at_root: bool) -> None:
    connection = Connection()
    begin(connection, PUT, at_root).fail(OutcomeUnknown("perhaps"))
    begin(connection, PUT, at_root).answer(iter([Failed("precondition_failed", "", 5)]))
    assert connection.answering is None and connection.written.startswith(b"HTTP/1.1 504 ")
    assert b"HTTP/1.1 412 " in connection.written and connection.written.count(b"x-request-id: ") == 2
    assert connection.finished == ["write"] * 2 and is_given_back(connection)


def test_an_error_is_redacted_for_who_may_not_read() -> None:
    connection = Connection()
    write = begin(connection, PUT, False, grants=Grants("w", "1", write=(b"",)))
    write.fail(PreconditionFailed("the key has another revision", 1839165906043689))
    assert connection.written.startswith(b"HTTP/1.1 412 ") and b"1839165906043689" not in connection.written
    del write
    assert is_given_back(connection)


@pytest.mark.parametrize("at_root", [True, False])
def test_a_client_that_left_gets_nothing_and_is_counted(at_root: bool) -> None:
    for end in (lambda write: write.answer(iter([Done(7, True)])), lambda write: write.fail(OutcomeUnknown())):
        connection = Connection()
        write = begin(connection, PUT, at_root)
        write.disconnected = True
        end(write)
        assert connection.written == b"" and connection.recorded == [("PUT", b"/k" if at_root else b"/v1/kv/k", 499)]
        assert is_given_back(connection)


@pytest.mark.parametrize("at_root", [True, False])
def test_a_key_that_was_not_there_is_shown_as_activity(at_root: bool) -> None:
    connection = Connection()
    begin(connection, DELETE, at_root).answer(iter([Done(0, False)]))
    assert connection.recorded[0] == ("absent", b"k", 0), "behind the end of the history before it was sent"
    assert connection.written.startswith(b"HTTP/1.1 404") and is_given_back(connection)


@pytest.mark.parametrize("at_root", [True, False])
def test_a_stopping_worker_ends_the_connection(at_root: bool) -> None:
    for end in (lambda write: write.answer(iter([Done(7, True)])), lambda write: write.fail(OutcomeUnknown())):
        connection = Connection()
        connection.context.load.stopping = True
        end(begin(connection, PUT, at_root))
        assert b"connection: close\r\n" in connection.written and connection.finished == [False]


def test_a_large_answer_is_left_to_an_exchange() -> None:
    connection = Connection()
    put = Put(b"k", b"abc", want_previous=True)
    begin(connection, put, False).answer(iter([Replaced(7, True, b"x" * LARGE_ANSWER)]))
    assert isinstance(connection.answering, Exchange)
    assert connection.written.endswith(b"x" * LARGE_ANSWER) and is_given_back(connection)


@pytest.mark.parametrize("size", [SMALLEST, LARGE])
def test_an_answer_is_coded_if_that_is_wanted(size: int) -> None:
    async def answer() -> Connection:
        connection = Connection()
        connection.loop = asyncio.get_running_loop()
        write = begin(connection, Patch(b"k", b"{}"), False, b"Accept-Encoding: gzip\r\n")
        write.answer(iter([Value(7, True, b"x" * size, "application/json")]))
        while not connection.finished:
            await asyncio.sleep(0.001)
        return connection

    connection = asyncio.run(answer())
    head, _, body = connection.written.partition(b"\r\n\r\n")
    assert b'etag: "7-gzip"' in head and b"content-encoding: gzip" in head
    assert gzip.decompress(body) == b"x" * size and is_given_back(connection)
