"""Encodings of `/v1/feed`: messages in JSON and MessagePack, and their framing over plain HTTP. Pure.

Events and items are encoded one by one, and envelopes are built around them.
"""

from __future__ import annotations

import base64
import struct
from typing import Any, Final, Protocol

import msgspec

from kvserver.api.times import rfc3339
from kvserver.gateway.feed.events import Event, Message, SnapshotItem


class Encoding(Protocol):
    """A format of messages.

    Attributes:
        index: of `Event.encoded`, doubled.
    """

    index: int

    def event(self, event: Event, values: bool) -> bytes:
        """Encode one event; without `values`, with the size of its value."""

    def item(self, item: SnapshotItem, values: bool) -> bytes:
        """Encode one item of a snapshot; without `values`, with the size of its value."""

    def envelope(self, type: str, cursor: bytes, name: str, parts: list[bytes], first: bool = False) -> bytes:
        """Encode a message with the list `name` of encoded `parts`. `first`: the first message of a snapshot."""

    def message(self, fields: dict[str, Any]) -> bytes:
        """Encode any other message."""


def encode_once(encoding: Encoding, event: Event, values: bool) -> bytes:
    """Return `event` in `encoding`, encoded at the first call and kept."""
    at = 2 * encoding.index + values
    data = event.encoded[at]
    if data is None:
        data = event.encoded[at] = encoding.event(event, values)
    return data


def _rfc3339_or_none(expires_ms: int) -> str | None:
    return rfc3339(expires_ms) if expires_ms else None


def _decode_text(value: bytes) -> str | None:
    """Decode `value`; None: it is not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


_json = msgspec.json.encode
_msgpack = msgspec.msgpack.encode


class _JsonEncoding:
    """JSON: a value is text if it is UTF-8, else base64 with its size."""

    index = 0

    def event(self, event: Event, values: bool) -> bytes:
        op, _, cause = event.op.partition(":")
        head = b'{"op":"%b","key":%b,"revision":%d,"time":"%b"' % (
            op.encode(),
            _json(event.key.decode()),
            event.revision,
            rfc3339(event.time_ms).encode(),
        )
        if op == "delete":
            return b'%b,"cause":"%b"}' % (head, cause.encode())
        expires = _json(_rfc3339_or_none(event.expires_ms))
        if op == "touch":
            return b'%b,"expires":%b}' % (head, expires)
        head = b'%b,"content_type":%b,"expires":%b,' % (head, _json(event.content_type), expires)
        return _with_value(head, event.value, len(event.value), values)

    def item(self, item: SnapshotItem, values: bool) -> bytes:
        head = b'{"key":%b,"revision":%d,"modified":"%b","expires":%b,"content_type":%b,' % (
            _json(item.key.decode()),
            item.revision,
            rfc3339(item.modified_ms).encode(),
            _json(_rfc3339_or_none(item.expires_ms)),
            _json(item.content_type),
        )
        return _with_value(head, item.value, item.size, values)

    def envelope(self, type: str, cursor: bytes, name: str, parts: list[bytes], first: bool = False) -> bytes:
        mark = b'"first":true,' if first else b""
        head = b'{"type":"%b","cursor":"%b",%b"%b":[' % (type.encode(), cursor, mark, name.encode())
        return b"".join((head, b",".join(parts), b"]}"))  # formatting would copy large values once more

    def message(self, fields: dict[str, Any]) -> bytes:
        return _json(fields)


def _with_value(head: bytes, value: bytes, size: int, wanted: bool) -> bytes:
    """Return `head` and the last fields of an object, those of its value, which is copied as seldom as can be."""
    if not wanted:
        return b'%b"size":%d}' % (head, size)
    text = _decode_text(value)
    if text is not None:
        return b"".join((head, b'"value":', _json(text), b"}"))
    return b"".join((head, b'"size":%d,"value_base64":"' % size, base64.b64encode(value), b'"}'))


class _MessagePackEncoding:
    """MessagePack: the same fields, except that a value is always `bin`."""

    index = 1

    def event(self, event: Event, values: bool) -> bytes:
        op, _, cause = event.op.partition(":")
        fields: dict[str, Any] = {
            "op": op,
            "key": event.key.decode(),
            "revision": event.revision,
            "time": rfc3339(event.time_ms),
        }
        if op == "delete":
            fields["cause"] = cause
        elif op == "touch":
            fields["expires"] = _rfc3339_or_none(event.expires_ms)
        else:
            fields |= {"content_type": event.content_type, "expires": _rfc3339_or_none(event.expires_ms)}
            fields |= {"value": event.value} if values else {"size": len(event.value)}
        return _msgpack(fields)

    def item(self, item: SnapshotItem, values: bool) -> bytes:
        fields: dict[str, Any] = {
            "key": item.key.decode(),
            "revision": item.revision,
            "modified": rfc3339(item.modified_ms),
            "expires": _rfc3339_or_none(item.expires_ms),
            "content_type": item.content_type,
        }
        return _msgpack(fields | ({"value": item.value} if values else {"size": item.size}))

    def envelope(self, type: str, cursor: bytes, name: str, parts: list[bytes], first: bool = False) -> bytes:
        fields: dict[str, Any] = {"type": type, "cursor": cursor.decode()} | ({"first": True} if first else {})
        head = _msgpack(fields)
        length = len(parts)
        array = (
            bytes((0x90 | length,))
            if length < 16
            else struct.pack(">BH" if length < 1 << 16 else ">BI", 0xDC if length < 1 << 16 else 0xDD, length)
        )
        return bytes((0x80 | len(fields) + 1,)) + head[1:] + _msgpack(name) + array + b"".join(parts)

    def message(self, fields: dict[str, Any]) -> bytes:
        return _msgpack(fields)


JSON: Final[Encoding] = _JsonEncoding()
MESSAGE_PACK: Final[Encoding] = _MessagePackEncoding()


def sse_frame(message: Message, suffix: bytes = b"") -> bytes:
    """Frame a message for SSE, with its cursor and `suffix` as id. Neither JSON nor a cursor has line ends."""
    return b"id: %b%b\ndata: %b\n\n" % (message.cursor, suffix, message.body)


def ndjson_line(message: Message) -> bytes:
    """Frame a message as a line of JSON."""
    return message.body + b"\n"


def poll_answer(cursor: bytes, more: bool, messages: list[Message]) -> bytes:
    """Return the body of a poll's answer; `more`: the next poll need not wait."""
    bodies = b",".join([message.body for message in messages])
    return b'{"cursor":"%b","more":%b,"messages":[%b]}' % (cursor, b"true" if more else b"false", bodies)
