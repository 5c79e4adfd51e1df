"""Messages of the feed, and the changes in them. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import datetime
from typing import Any, Final

from kvserver.client.changes import Activity, Change, Delete, Put, Reset, Synced, Touch
from kvserver.client.core.answers import member, moment_of
from kvserver.client.errors import ForeignAnswer, KVError, error_of

Message = dict[str, Any]

_SUBJECTS: Final = ("key", "prefix", "peer")


def parse_message(line: bytes) -> Message:
    """Parse a line of the feed. Raises `ForeignAnswer` for what no kvserver sends."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise ForeignAnswer("a line of the feed that is not JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ForeignAnswer("a line of the feed that is no message")
    return message


def error_in(message: Message) -> KVError:
    """Return the error that a message of type `error` describes."""
    detail, hint = message.get("detail"), message.get("hint")
    return error_of(
        member(message, "status", int),
        member(message, "code", str),
        detail if isinstance(detail, str) else "",
        hint if isinstance(hint, str) else "",
    )


def changes_in(message: Message, below: str = "") -> tuple[Change, ...]:
    """Return the changes in a message, with keys as a client below the prefix `below` names them.

    A message, or an event, of a kind that this client does not know has none. Raises `ForeignAnswer`.
    """
    kind, at = message["type"], len(below)
    if kind == "events":
        events = [_event(event, at) for event in member(message, "events", list)]
        return tuple([change for change in events if change is not None])
    if kind == "snapshot":
        items: list[Change] = [_put(item, at, "modified", "snapshot") for item in member(message, "items", list)]
        return (Reset("start", True), *items) if message.get("first") is True else tuple(items)
    if kind == "snapshot_end":
        return (Synced(member(message, "cursor", str)),)
    if kind == "gap":
        return (Reset(member(message, "reason", str), member(message, "snapshot", bool)),)
    return (_activity(message, below),) if kind == "activity" else ()


def _event(event: Any, at: int) -> Change | None:
    op = member(event, "op", str)
    if op == "put":
        return _put(event, at, "time", "live")
    if op == "delete":
        return Delete(
            _key(event, at), member(event, "revision", int), _time(event, "time"), member(event, "cause", str)
        )
    if op == "touch":
        expires = moment_of(event.get("expires"))
        return Touch(_key(event, at), member(event, "revision", int), _time(event, "time"), expires)
    return None


def _put(item: Any, at: int, time: str, origin: Any) -> Put:
    key, revision, moment = _key(item, at), member(item, "revision", int), _time(item, time)
    value = _value(item)
    size = len(value) if value is not None else member(item, "size", int)
    content_type = member(item, "content_type", str)
    return Put(key, value, size, revision, moment, content_type, moment_of(item.get("expires")), origin)


def _key(item: Any, at: int) -> str:
    key: str = member(item, "key", str)
    return key[at:]


def _time(item: Any, name: str) -> datetime:
    moment = moment_of(member(item, name, str))
    assert moment is not None
    return moment


def _value(item: Any) -> bytes | None:
    text = item.get("value")
    if isinstance(text, str):
        return text.encode()
    coded = item.get("value_base64")
    if coded is None:
        return None
    try:
        return base64.b64decode(coded, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise ForeignAnswer("a value that is not base64") from None


def _activity(message: Message, below: str) -> Activity:
    found = [text for name in _SUBJECTS if isinstance(text := message.get(name), str)]
    subject = found[0] if found else ""
    if "peer" not in message:
        subject = subject.removeprefix(below)
    return Activity(member(message, "op", str), subject, _time(message, "time"))
