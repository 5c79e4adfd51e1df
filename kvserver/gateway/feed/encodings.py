"""How messages of `/v1/feed` are written: JSON and MessagePack, and what carries them over plain HTTP. Pure.

Events and items are encoded by themselves, envelopes are built around them.
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
        """One event."""

    def item(self, item: SnapshotItem, values: bool) -> bytes:
        """One item of a snapshot."""

    def envelope(self, type: str, cursor: bytes, name: str, parts: list[bytes], first: bool = False) -> bytes:
        """A message with the list `name` of what is encoded already; `first`: the first one of its kind."""

    def message(self, fields: dict[str, Any]) -> bytes:
        """Any other message."""


def encoded(encoding: Encoding, event: Event, values: bool) -> bytes:
    """`event` in `encoding`, encoded when it is asked for first."""
    at = 2 * encoding.index + values
    data = event.encoded[at]
    if data is None:
        data = event.encoded[at] = encoding.event(event, values)
    return data


def _expires(expires_ms: int) -> str | None:
    return rfc3339(expires_ms) if expires_ms else None


def _text(value: bytes) -> str | None:
    """`value` as text, if that is what it is."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


_json = msgspec.json.encode
_msgpack = msgspec.msgpack.encode


class _JsonEncoding:
    """JSON: a value is text if it is UTF-8, else base64, and then its size is told."""

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
        expires = _json(_expires(event.expires_ms))
        if op == "touch":
            return b'%b,"expires":%b}' % (head, expires)
        head = b'%b,"content_type":%b,"expires":%b,' % (head, _json(event.content_type), expires)
        return _with_value(head, event.value, len(event.value), values)

    def item(self, item: SnapshotItem, values: bool) -> bytes:
        head = b'{"key":%b,"revision":%d,"modified":"%b","expires":%b,"content_type":%b,' % (
            _json(item.key.decode()),
            item.revision,
            rfc3339(item.modified_ms).encode(),
            _json(_expires(item.expires_ms)),
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
    """`head` and the last fields of an object, which are about its value: copied as seldom as can be."""
    if not wanted:
        return b'%b"size":%d}' % (head, size)
    text = _text(value)
    if text is not None:
        return b"".join((head, b'"value":', _json(text), b"}"))
    return b"".join((head, b'"size":%d,"value_base64":"' % size, base64.b64encode(value), b'"}'))


class _MessagePackEncoding:
    """MessagePack: the same fields, but that a value is always `bin`."""

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
            fields["expires"] = _expires(event.expires_ms)
        else:
            fields |= {"content_type": event.content_type, "expires": _expires(event.expires_ms)}
            fields |= {"value": event.value} if values else {"size": len(event.value)}
        return _msgpack(fields)

    def item(self, item: SnapshotItem, values: bool) -> bytes:
        fields: dict[str, Any] = {
            "key": item.key.decode(),
            "revision": item.revision,
            "modified": rfc3339(item.modified_ms),
            "expires": _expires(item.expires_ms),
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


def sse(message: Message, suffix: bytes = b"") -> bytes:
    """A message as SSE frame, its cursor with a suffix. JSON has no line ends, and neither has a cursor."""
    return b"id: %b%b\ndata: %b\n\n" % (message.cursor, suffix, message.body)


def ndjson(message: Message) -> bytes:
    """A message as a line."""
    return message.body + b"\n"


def poll_answer(cursor: bytes, more: bool, messages: list[Message]) -> bytes:
    """The body of a poll's answer; `more`: the next poll need not wait."""
    bodies = b",".join([message.body for message in messages])
    return b'{"cursor":"%b","more":%b,"messages":[%b]}' % (cursor, b"true" if more else b"false", bodies)
