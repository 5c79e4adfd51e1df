"""What the C client makes of feeds that their server ends."""

from __future__ import annotations

from typing import Any

import pytest

from tests.client.c.test_policy import line, lines, put, start
from tests.client.c.wicked_server import Request, WickedServer
from tests.client.driver import Failed

MOST_CONNECTIONS = 15
"""In a second of pauses that grow from 100 ms: about 6."""


def closing(retry_ms: int) -> bytes:
    return line(type="closing", cursor="e.1", reason="stop", retry_ms=retry_ms)


@pytest.mark.parametrize(
    "end",
    [closing(0), closing(-1500), closing(1), line(type="closing"), line(type="error", status=503, code="unavailable")],
)
def test_opening_a_feed_that_ends_at_once_has_patience_and_pauses(end: bytes) -> None:
    with WickedServer(lambda _: lines(end)) as server, start(server, patience=1) as driver:
        error = driver.fails("watch")
        assert error.code in ("not_answered", "unavailable")
        assert error.document["attempts"] == len(server.requests) <= MOST_CONNECTIONS


@pytest.mark.parametrize("end", [closing(0), closing(-1), line(type="error", status=500, code="internal_error")])
def test_a_running_feed_that_ends_again_and_again_has_patience_and_pauses(end: bytes) -> None:
    def reply(_: Request) -> bytes:
        return lines(put(1), end) if len(server.requests) == 1 else lines(end)

    with WickedServer(reply) as server, start(server) as driver:
        found: list[Any] = []
        with pytest.raises(Failed) as caught:
            found.extend(driver.stream("watch", patience=1, count=2))
        assert (caught.value.half, caught.value.code) == ("other", "not_answered")
        assert len(server.requests) <= MOST_CONNECTIONS


def test_an_error_that_ends_a_feed_is_filled_throughout() -> None:
    error = line(type="error", status=403, code="forbidden", detail="d", hint="h")
    with WickedServer(lambda _: lines(put(1), error)) as server, start(server) as driver:
        driver.send("watch", count=3)
        assert [next(iter(driver.receive())) for _ in range(2)] == ["ready", "change"]
        assert driver.receive()["error"]["attempts"] == 1


def test_a_feed_that_is_none_is_filled_throughout() -> None:
    with WickedServer(lambda _: lines(put(1), b"rubbish\n")) as server, start(server) as driver:
        driver.send("watch", count=3)
        assert [next(iter(driver.receive())) for _ in range(2)] == ["ready", "change"]
        error = driver.receive()["error"]
        assert (error["code"], error["attempts"]) == ("not_answered", 1)


SYNCED = line(type="snapshot_end", cursor="e.5")


def kinds(documents: list[Any]) -> list[str]:
    return [document["change"]["kind"] for document in documents if "change" in document]


def test_an_empty_snapshot_begins_with_a_reset() -> None:
    """Both are of one message: the cursor stands behind them when both were told."""
    with WickedServer(lambda _: lines(SYNCED, put(6))) as server, start(server) as driver:
        documents = list(driver.stream("watch", snapshot=True, count=3))
        assert kinds(documents) == ["reset", "synced", "put"]
        assert documents[1]["change"] == {"kind": "reset", "reason": "start", "snapshot": True, "cursor": None}
        assert documents[2]["change"]["cursor"] == "e.5"


def test_a_snapshot_has_one_reset() -> None:
    item = {"key": "k", "revision": 5, "modified": "t", "content_type": "x", "expires": None, "value": "v"}
    page = line(type="snapshot", cursor="e.4", first=True, items=[item])
    gap = line(type="gap", cursor="e.1", reason="trimmed", snapshot=True)
    for begin, more in ((page, ["reset", "put"]), (gap, ["reset"])):
        with WickedServer(lambda _, begin=begin: lines(begin, SYNCED, put(6))) as server, start(server) as driver:
            found = kinds(list(driver.stream("watch", snapshot=True, count=len(more) + 2)))
            assert found == [*more, "synced", "put"]


def test_behind_a_cursor_a_snapshot_had_its_reset() -> None:
    with WickedServer(lambda _: lines(SYNCED, put(6))) as server, start(server) as driver:
        assert kinds(list(driver.stream("watch", snapshot=True, since="e.4", count=2))) == ["synced", "put"]
