"""MemoryKV's text: one line for each change and each activity. Pure.

    Insert { key: k, value: v }    Delete { key: k }    DeletePrefix { key: p }    DeleteAll
    Read { key: k}    List    ListPrefix { prefix: p}    Heartbeat from 127.0.0.1:36460

The spaces are MemoryKV's. What is not UTF-8 is shown with U+FFFD, one for each maximal ill-formed part.
"""

from __future__ import annotations

from websockets.frames import Opcode

from kvserver.gateway.transport.frames import frame
from shards.wire.protocol import Activity, Change, DeleteEvent, PrefixMarked, PutEvent

_ACTIVITY = {
    "read": b"Read { key: %b}",
    "list": b"List",
    "list_prefix": b"ListPrefix { prefix: %b}",
    "delete": b"Delete { key: %b }",
    "delete_prefix": b"DeletePrefix { key: %b }",
    "delete_all": b"DeleteAll",
    "heartbeat": b"Heartbeat from %b",
}


def change_line(change: Change) -> bytes | None:
    """The line of a change; None for what MemoryKV's feed doesn't show.

    That is a touch, and a delete that belongs to a prefix delete: its mark shows the request, in one line.
    """
    match change:
        case PutEvent(key=key, value=value):
            return b"Insert { key: %b, value: %b }" % (_text(key), _text(value))
        case DeleteEvent(key=key, cut=0):
            return delete_line(key)
        case PrefixMarked(prefix=b""):
            return b"DeleteAll"
        case PrefixMarked(prefix=prefix):
            return b"DeletePrefix { key: %b }" % _text(prefix)
        case _:
            return None


def delete_line(key: bytes) -> bytes:
    """The line of a key that is gone."""
    return b"Delete { key: %b }" % _text(key)


def activity_line(activity: Activity) -> bytes:
    """The line of something that changed nothing."""
    line = _ACTIVITY[activity.kind]
    return line % _text(activity.subject) if b"%" in line else line


def text_frame(line: bytes) -> bytes:
    """The WebSocket frame that carries a line as text."""
    return frame(Opcode.TEXT, line)


def binary_frame(line: bytes) -> bytes:
    """The same as binary, for who asked for it."""
    return frame(Opcode.BINARY, line)


def _text(raw: bytes) -> bytes:
    if raw.isascii():
        return raw
    return raw.decode("utf-8", "replace").encode()
