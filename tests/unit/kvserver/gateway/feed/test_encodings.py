"""Messages in JSON and MessagePack, and their framing over plain HTTP."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvserver.gateway.feed import encodings
from kvserver.gateway.feed.encodings import JSON, MESSAGE_PACK
from kvserver.gateway.feed.events import Message, SnapshotItem
from shards.wire.protocol import (
    Change,
    DeleteEvent,
    PutEvent,
    TouchEvent,
)
from tests.unit.kvserver.gateway.feed.histories import T, event


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            PutEvent(b"a/b", b'{"n":1}', "application/json", 0),
            '{"op":"put","key":"a/b","revision":57,"time":"2026-11-18T11:06:40.123Z",'
            '"content_type":"application/json","expires":null,"value":"{\\"n\\":1}"}',
        ),
        (
            PutEvent(b"img", b"\x89P", "", 1000),
            '{"op":"put","key":"img","revision":57,"time":"2026-11-18T11:06:40.123Z",'
            '"content_type":"application/octet-stream","expires":"1970-01-01T00:00:01.000Z","size":2,'
            '"value_base64":"iVA="}',
        ),
        (
            TouchEvent("é\n".encode(), 0),
            '{"op":"touch","key":"é\\n","revision":57,"time":"2026-11-18T11:06:40.123Z","expires":null}',
        ),
        (
            DeleteEvent(b"k", "evict", 5),
            '{"op":"delete","key":"k","revision":57,"time":"2026-11-18T11:06:40.123Z","cause":"evict"}',
        ),
    ],
)
def test_an_event_in_json(change: Change, text: str) -> None:
    assert JSON.event(event(change), True).decode() == text


@settings(deadline=None)
@given(
    key=st.text(min_size=1, max_size=20).filter(lambda text: "\0" not in text),
    value=st.binary(max_size=50),
    expires_ms=st.sampled_from([0, 1000]),
    values=st.booleans(),
    count=st.sampled_from([0, 1, 15, 16, 70_000]),
)
def test_messagepack_says_the_same(key: str, value: bytes, expires_ms: int, values: bool, count: int) -> None:
    put = event(PutEvent(key.encode(), value, "t/t", expires_ms))
    item = SnapshotItem(key.encode(), 5, T, expires_ms, "t/t", value, len(value))
    for plain, packed in (
        (JSON.event(put, values), MESSAGE_PACK.event(put, values)),
        (JSON.item(item, values), MESSAGE_PACK.item(item, values)),
    ):
        left, right = json.loads(plain), msgspec.msgpack.decode(packed)
        given = right.pop("value", None)
        assert given == (value if values else None)
        for name in ("value", "value_base64", "size"):
            left.pop(name, None)
            right.pop(name, None)
        assert left == right
    whole = MESSAGE_PACK.envelope("events", b"e.1", "events", [MESSAGE_PACK.event(put, values)] * count)
    told = msgspec.msgpack.decode(whole)
    assert (told["type"], told["cursor"], len(told["events"])) == ("events", "e.1", count)


def test_frames_of_plain_http() -> None:
    message = Message(b"e.1", JSON.message({"type": "bookmark", "text": "a\r\nb"}))
    assert encodings.sse_frame(message, b"~w") == b'id: e.1~w\ndata: {"type":"bookmark","text":"a\\r\\nb"}\n\n'
    assert encodings.ndjson_line(message).count(b"\n") == 1
    answer = json.loads(encodings.poll_answer(b"e.2", True, [message, message]))
    assert (answer["cursor"], answer["more"], len(answer["messages"])) == ("e.2", True, 2)
