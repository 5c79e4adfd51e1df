"""Changes as JSON, and as the environment of a command."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvserver.client.changes import Activity, Change, Delete, Put, Reset, Synced
from kvserver.client.core.feed.messages import changes_in
from kvserver.commands.feed.events import change_document, change_environment, input_of

TIME = "2026-11-22T11:40:00.123Z"
EVENTS: list[dict[str, Any]] = [
    {
        "op": "put",
        "key": "a/b",
        "revision": 57,
        "time": TIME,
        "content_type": "application/json",
        "expires": None,
        "value": '{"n":1}',
    },
    {
        "op": "put",
        "key": "img",
        "revision": 58,
        "time": TIME,
        "content_type": "image/png",
        "expires": TIME,
        "value_base64": "iVA=",
    },
    {"op": "put", "key": "n", "revision": 58, "time": TIME, "content_type": "a/b", "expires": None, "size": 7},
    {"op": "touch", "key": "a/b", "revision": 59, "time": TIME, "expires": TIME},
    {"op": "touch", "key": "a/b", "revision": 59, "time": TIME, "expires": None},
    {"op": "delete", "key": "a/b", "revision": 60, "time": TIME, "cause": "expire"},
]
ITEM = {"key": "k", "revision": 5, "modified": TIME, "expires": None, "content_type": "text/plain", "value": "v"}
ACTIVITIES: list[dict[str, Any]] = [
    {"type": "activity", "op": "read", "key": "k", "time": TIME},
    {"type": "activity", "op": "list", "time": TIME},
    {"type": "activity", "op": "list_prefix", "prefix": "p", "time": TIME},
    {"type": "activity", "op": "delete", "key": "k", "time": TIME},
    {"type": "activity", "op": "delete_prefix", "prefix": "p", "time": TIME},
    {"type": "activity", "op": "delete_all", "time": TIME},
    {"type": "activity", "op": "heartbeat", "peer": "127.0.0.1:36460", "time": TIME},
]


def test_events_are_written_as_the_server_sent_them() -> None:
    changes = changes_in({"type": "events", "cursor": "c", "events": EVENTS})
    assert [change_document(change) for change in changes] == EVENTS


def test_items_of_a_snapshot_are_too() -> None:
    first = changes_in({"type": "snapshot", "cursor": "c", "first": True, "items": [ITEM]})
    assert [change_document(change) for change in first] == [{"type": "snapshot", "first": True}, ITEM]


@pytest.mark.parametrize(
    "message",
    [
        *ACTIVITIES,
        {"type": "snapshot_end", "cursor": "c"},
        {"type": "gap", "reason": "trimmed", "snapshot": True},
    ],
    ids=lambda message: json.dumps(message),
)
def test_messages_without_events(message: dict[str, Any]) -> None:
    (change,) = changes_in({"cursor": "c", **message})
    assert change_document(change) == message


def change_of(event: dict[str, Any]) -> Change:
    return changes_in({"type": "events", "cursor": "c", "events": [event]})[0]


def test_a_command_is_told_everything() -> None:
    assert change_environment(change_of(EVENTS[0]), "cursor") == {
        "KV_OP": "put",
        "KV_KEY": "a/b",
        "KV_REVISION": "57",
        "KV_TIME": TIME,
        "KV_CONTENT_TYPE": "application/json",
        "KV_EXPIRES": "",
        "KV_ORIGIN": "live",
        "KV_CURSOR": "cursor",
    }
    told = change_environment(change_of(EVENTS[3]), "cursor")
    assert (told["KV_OP"], told["KV_EXPIRES"], "KV_CONTENT_TYPE" in told) == ("touch", TIME, False)
    told = change_environment(change_of(EVENTS[5]), "cursor")
    assert (told["KV_OP"], told["KV_CAUSE"]) == ("delete", "expire")
    assert change_environment(Reset("epoch", True), "c") == {"KV_OP": "reset", "KV_REASON": "epoch", "KV_CURSOR": "c"}
    assert change_environment(Synced("c"), "c") == {"KV_OP": "synced", "KV_CURSOR": "c"}
    time = change_of(EVENTS[0]).time  # type: ignore[union-attr]
    told = change_environment(Activity("read", "k", time), "c")
    assert (told["KV_OP"], told["KV_KEY"]) == ("read", "k")


def test_a_command_gets_the_value_of_a_put_alone() -> None:
    put, deleted = change_of(EVENTS[1]), change_of(EVENTS[5])
    assert isinstance(put, Put) and isinstance(deleted, Delete)
    assert (input_of(put), input_of(change_of(EVENTS[2])), input_of(deleted)) == (b"\x89P", b"", b"")
