"""Changes as JSON, and as the environment of a command. Pure."""

from __future__ import annotations

from typing import Any, Final

from kvserver.client.changes import Activity, Change, Delete, Put, Reset, Synced, Touch
from kvserver.commands.parts.documents import value_member
from kvserver.commands.parts.texts import moment_text

_SUBJECTS: Final = {
    "read": "key",
    "delete": "key",
    "list_prefix": "prefix",
    "delete_prefix": "prefix",
    "heartbeat": "peer",
}
"""What the subject of an activity is; others have none."""


def change_document(change: Change) -> dict[str, Any]:
    """Return a change as the API writes it: an event, an item of a snapshot, or a message without events."""
    if isinstance(change, Put):
        return _put_document(change)
    if isinstance(change, Touch):
        expires = None if change.expires is None else moment_text(change.expires)
        return {**_head("touch", change), "expires": expires}
    if isinstance(change, Delete):
        return {**_head("delete", change), "cause": change.cause}
    if isinstance(change, Activity):
        name = _SUBJECTS.get(change.op)
        subject = {name: change.subject} if name else {}
        return {"type": "activity", "op": change.op, **subject, "time": moment_text(change.time)}
    if isinstance(change, Synced):
        return {"type": "snapshot_end", "cursor": change.cursor}
    if change.reason == "start":
        return {"type": "snapshot", "first": True}
    return {"type": "gap", "reason": change.reason, "snapshot": change.snapshot}


def _head(op: str, change: Put | Touch | Delete) -> dict[str, Any]:
    return {"op": op, "key": change.key, "revision": change.revision, "time": moment_text(change.time)}


def _put_document(put: Put) -> dict[str, Any]:
    value = {"size": put.size} if put.value is None else value_member(put.value)
    common = {
        "content_type": put.content_type,
        "expires": None if put.expires is None else moment_text(put.expires),
        **value,
    }
    if put.origin == "live":
        return {**_head("put", put), **common}
    return {"key": put.key, "revision": put.revision, "modified": moment_text(put.time), **common}


def change_environment(change: Change, cursor: str) -> dict[str, str]:
    """Return the variables that tell a command of a change; `cursor` is after the message that it came in.

    `KV_OP` is `put`, `touch`, `delete`, the operation of an activity, `reset` or `synced`.
    """
    variables = {"KV_CURSOR": cursor}
    if isinstance(change, Reset):
        return {**variables, "KV_OP": "reset", "KV_REASON": change.reason}
    if isinstance(change, Synced):
        return {**variables, "KV_OP": "synced"}
    variables["KV_TIME"] = moment_text(change.time)
    if isinstance(change, Activity):
        return {**variables, "KV_OP": change.op, "KV_KEY": change.subject}
    variables |= {"KV_KEY": change.key, "KV_REVISION": str(change.revision)}
    if isinstance(change, Delete):
        return {**variables, "KV_OP": "delete", "KV_CAUSE": change.cause}
    variables["KV_EXPIRES"] = "" if change.expires is None else moment_text(change.expires)
    if isinstance(change, Touch):
        return {**variables, "KV_OP": "touch"}
    return {**variables, "KV_OP": "put", "KV_CONTENT_TYPE": change.content_type, "KV_ORIGIN": change.origin}


def input_of(change: Change) -> bytes:
    """Return what a command gets as its standard input: the value of a put, else nothing."""
    return change.value or b"" if isinstance(change, Put) else b""
