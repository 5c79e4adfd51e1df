"""The format of `/wal`, which is MemoryKV's: one line of text for each change and each activity. Pure.

    Insert { key: k, value: v }    Delete { key: k }    DeletePrefix { key: p }    DeleteAll
    Read { key: k}    List    ListPrefix { prefix: p}    Heartbeat from 127.0.0.1:36460

The spaces are MemoryKV's. Bytes that are not UTF-8 are shown as U+FFFD, one for each maximal ill-formed part.
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
    """Return the line of a change; None for changes that MemoryKV's feed does not show.

    These are touches, and deletes that belong to a prefix delete, whose mark shows the request in one line.
    """
    match change:
        case PutEvent(key=key, value=value):
            return b"Insert { key: %b, value: %b }" % (_replace_ill_formed(key), _replace_ill_formed(value))
        case DeleteEvent(key=key, cut=0):
            return delete_line(key)
        case PrefixMarked(prefix=b""):
            return b"DeleteAll"
        case PrefixMarked(prefix=prefix):
            return b"DeletePrefix { key: %b }" % _replace_ill_formed(prefix)
        case _:
            return None


def delete_line(key: bytes) -> bytes:
    """Return the line of a deleted key."""
    return b"Delete { key: %b }" % _replace_ill_formed(key)


def activity_line(activity: Activity) -> bytes:
    """Return the line of an activity, which changed nothing."""
    line = _ACTIVITY[activity.kind]
    return line % _replace_ill_formed(activity.subject) if b"%" in line else line


def text_frame(line: bytes) -> bytes:
    """Make the WebSocket frame that carries a line as text."""
    return frame(Opcode.TEXT, line)


def binary_frame(line: bytes) -> bytes:
    """Make the WebSocket frame that carries a line as bytes, for clients that ask for it."""
    return frame(Opcode.BINARY, line)


def _replace_ill_formed(raw: bytes) -> bytes:
    if raw.isascii():
        return raw
    return raw.decode("utf-8", "replace").encode()
