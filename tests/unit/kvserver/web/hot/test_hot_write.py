"""Writes of the hot path: what they charge, and who answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kvserver.http.responses import ResponseHeads
from kvserver.web.exchange import Exchange
from kvserver.web.hot.fields import read_fields
from kvserver.web.hot.hot_write import HotRemoval, HotWrite
from shards.wire.errors import OutcomeUnknown
from shards.wire.protocol import Delete, Done, Put
from tests.unit.kvserver.web.limits.stub import make_load


class Connection(SimpleNamespace):
    """A connection that keeps what is written."""

    def __init__(self) -> None:
        load, _ = make_load()
        heads = ResponseHeads(False, True), ResponseHeads(True, True)
        origins = SimpleNamespace(all=True)
        context = SimpleNamespace(
            load=load,
            heads=heads,
            pages=SimpleNamespace(origins=origins),
            record_answer=self.record_answer,
            tasks=set(),
        )
        super().__init__(
            context=context,
            peer=SimpleNamespace(quota=load.quotas.of_address("a"), address=("192.0.2.1", 1)),
            transport=SimpleNamespace(write=self.write),
            flow=SimpleNamespace(write_paused=False),
            answering=None,
            has_pending_input=False,
            written=b"",
            recorded=[],
            finished=[],
        )

    def write(self, data: bytes) -> None:
        self.written += data

    def record_answer(self, client: Any, method: str, route: str, path: bytes, status: int, *_: Any) -> None:
        self.recorded.append((method, path, status))

    def finish_write(self) -> None:
        self.finished.append("write")

    def finish_exchange(self, keep_alive: bool) -> None:
        self.finished.append(keep_alive)


def begin(connection: Any, at_root: bool = True, delete: bool = False) -> HotWrite:
    fields = read_fields(b"Host: h\r\n" + (b"" if delete else b"Content-Length: 3\r\n"))
    assert fields is not None
    if delete:
        store: Any = SimpleNamespace(
            board=SimpleNamespace(last_revision=lambda: 42), report_missed_delete=connection.recorded.append
        )
        store.report_missed_delete = lambda key, end: connection.recorded.append(("absent", key, end))
        return HotRemoval(connection, b"/k", at_root, fields, 0.0, None, Delete(b"k", at_root), 1, store)
    return HotWrite(connection, b"/k", at_root, fields, 0.0, None, Put(b"k", b"abc", "", 0, 0, at_root), 4)


def is_given_back(connection: Any) -> bool:
    load = connection.context.load
    return (load.in_flight, load.bytes_held, load.quotas.is_empty) == (0, 0, True)


def test_a_write_is_complete_and_in_flight_when_it_is_made() -> None:
    connection = Connection()
    write = begin(connection)
    assert (write.count, write.size, len(write.operations)) == (1, 4, 1) and write.deadline_ns > 0
    load, quota = connection.context.load, connection.peer.quota
    assert (load.in_flight, load.bytes_held, quota.in_flight, quota.bytes) == (1, 3, 1, 3)


@pytest.mark.parametrize(
    ("at_root", "delete", "done", "status"),
    [
        (True, False, Done(7, True, b"old"), 200),
        (False, False, Done(7, False, None), 201),
        (False, False, Done(7, True, None), 204),
        (True, True, Done(7, True, b"old"), 200),
        (False, True, Done(7, True, None), 204),
    ],
)
def test_a_plain_answer_is_written_at_once(at_root: bool, delete: bool, done: Done, status: int) -> None:
    connection = Connection()
    begin(connection, at_root, delete).answer(iter([done]))
    head, _, body = connection.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status) and body == (b"old" if at_root else b"")
    assert (b'etag: "7"' in head) == (not at_root and not delete)
    assert connection.finished == ["write"] and is_given_back(connection)


def test_an_error_is_answered_by_an_exchange() -> None:
    connection = Connection()
    begin(connection).fail(OutcomeUnknown("perhaps"))
    assert isinstance(connection.answering, Exchange)
    assert connection.written.startswith(b"HTTP/1.1 50") and b"x-request-id: " in connection.written
    assert connection.finished == [True] and is_given_back(connection)


def test_a_client_that_left_gets_nothing_and_is_counted() -> None:
    connection = Connection()
    write = begin(connection)
    write.disconnected = True
    write.answer(iter([Done(7, True, b"old")]))
    assert connection.written == b"" and connection.recorded == [("PUT", b"/k", 499)]
    assert is_given_back(connection)


def test_a_key_that_was_not_there_is_shown_as_activity() -> None:
    connection = Connection()
    begin(connection, delete=True).answer(iter([Done(7, False, None)]))
    assert connection.recorded[0] == ("absent", b"k", 42), "behind the end of the history before it was sent"
    assert connection.written.startswith(b"HTTP/1.1 404") and is_given_back(connection)


def test_a_stopping_worker_ends_the_connection() -> None:
    connection = Connection()
    connection.context.load.stopping = True
    begin(connection).answer(iter([Done(7, True, b"old")]))
    assert b"connection: close\r\n" in connection.written and connection.finished == [False]
