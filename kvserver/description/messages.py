"""Schemas of the messages of `/v1/feed`, and an example of each. Pure."""

from __future__ import annotations

import json
from typing import Any, Final, get_args

from kvserver.api.feed_query import CAUSES
from kvserver.api.query import TIME, Schema
from kvserver.description.bodies import listed, record, ref
from shards.wire.errors import ERRORS, BadCursor
from shards.wire.protocol import ActivityKind

_TEXT: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_REVISION: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": (1 << 53) - 1}
_TIME: Final[Schema] = TIME.schema
_EXPIRES: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}
_CURSOR: Final[Schema] = {**_TEXT, "description": "The place after this message: pass it as `since`."}
_VALUE: Final[dict[str, Schema]] = {
    "value": {**_TEXT, "description": "If it is UTF-8; in MessagePack always, as `bin`."},
    "value_base64": {**_TEXT, "contentEncoding": "base64", "description": "If it is not UTF-8."},
    "size": {**_COUNT, "description": "Size of the value in bytes, if the value itself is left out."},
}


def _one_of(*words: str) -> Schema:
    return {"type": "string", "enum": list(words)}


def _message(kind: str, description: str, optional: dict[str, Schema] | None = None, /, **fields: Schema) -> Schema:
    return record(description, optional, type=_one_of(kind), cursor=_CURSOR, **fields)


def _event(description: str, optional: dict[str, Schema] | None, *ops: str, **fields: Schema) -> Schema:
    common = {"key": _TEXT, "revision": _REVISION, "time": _TIME}
    return record(description, optional, op=_one_of(*ops), **common, **fields)


_MESSAGES: Final[dict[str, Schema]] = {
    "FeedEvents": _message(
        "events",
        "Changes, in the order of the history; an atomic batch is never divided.",
        events=listed({"oneOf": [ref("FeedPut"), ref("FeedTouch"), ref("FeedDelete")]}),
    ),
    "FeedSnapshot": _message(
        "snapshot",
        "A page of the current state, in byte order. Changes of keys that were already sent may come between pages.",
        {"first": {"type": "boolean", "enum": [True], "description": "A snapshot begins: discard the copy."}},
        items=listed(ref("FeedItem")),
    ),
    "FeedSnapshotEnd": _message("snapshot_end", "The copy is complete. It also comes for an empty snapshot."),
    "FeedBookmark": _message("bookmark", "Only a cursor.", time=_TIME),
    "FeedGap": _message(
        "gap",
        "The feed cannot continue where it was: discard the copy.",
        reason={
            **_one_of("trimmed", "epoch", "bad_cursor"),
            "description": "`trimmed`: what came next is not kept any more. `epoch`: the history is another. "
            "`bad_cursor`: this history never gave it out, it is of other prefixes, keys or grants, or a "
            "Last-Event-ID that is no cursor.",
        },
        oldest={**_TEXT, "description": "The cursor before the first change that is kept."},
        snapshot={"type": "boolean", "description": "A snapshot follows; else the changes that are kept."},
    ),
    "FeedClosing": _message(
        "closing",
        "The server ends the connection. Reconnect with the cursor.",
        reason={
            **_one_of("stop", "reload", "revoked"),
            "description": "`stop`: the server stops. `reload`: another gateway takes over. `revoked`: what the "
            "token grants has changed.",
        },
        retry_ms={**_COUNT, "description": "Milliseconds to wait before you reconnect."},
    ),
    "FeedActivity": _message(
        "activity",
        "An action that changed nothing, or the mark of a prefix delete; best effort.",
        {"key": _TEXT, "prefix": _TEXT, "peer": _TEXT},
        op=_one_of(*get_args(ActivityKind)),
        time=_TIME,
    ),
    "FeedError": record(
        "Why there is no feed: for pages, which cannot see how a WebSocket's handshake failed.",
        type=_one_of("error"),
        status={"type": "integer", "enum": [400, 401, 403]},
        code=_one_of(BadCursor.code, *sorted(code for code, error in ERRORS.items() if error.status in (401, 403))),
        detail=_TEXT,
        hint=_TEXT,
    ),
}
"""By name; the discriminator is `type`."""

_PARTS: Final[dict[str, Schema]] = {
    "FeedPut": _event("A value was written.", _VALUE, "put", content_type=_TEXT, expires=_EXPIRES),
    "FeedTouch": _event("The expiry changed, and nothing else.", None, "touch", expires=_EXPIRES),
    "FeedDelete": _event("The key is gone.", None, "delete", cause=_one_of(*CAUSES)),
    "FeedItem": record(
        "What a key holds.",
        _VALUE,
        key=_TEXT,
        revision=_REVISION,
        modified=_TIME,
        expires=_EXPIRES,
        content_type=_TEXT,
    ),
}


def make_message_schemas() -> dict[str, Schema]:
    """Return all schemas, by name; `FeedMessage` is any message."""
    types = {schema["properties"]["type"]["enum"][0]: ref(name)["$ref"] for name, schema in _MESSAGES.items()}
    any_of_them = {
        "description": "A message of the feed. New types may be added: skip those that you do not know.",
        "oneOf": [ref(name) for name in _MESSAGES],
        "discriminator": {"propertyName": "type", "mapping": types},
    }
    return {"FeedMessage": any_of_them, **_MESSAGES, **_PARTS}


_PUT: Final[dict[str, Any]] = {
    "op": "put",
    "key": "flags/dark",
    "revision": 1838482738281473,
    "time": "2026-11-22T11:40:00.123Z",
    "content_type": "text/plain",
    "expires": None,
    "value": "on",
}
_DELETE: Final[dict[str, Any]] = {
    "op": "delete",
    "key": "flags/old",
    "revision": 1838482738281478,
    "time": "2026-11-22T11:41:00.123Z",
    "cause": "expire",
}
_TOUCH: Final[dict[str, Any]] = {
    "op": "touch",
    "key": "flags/dark",
    "revision": 1838482738281475,
    "time": "2026-11-22T11:40:30.123Z",
    "expires": "2026-11-23T11:40:30.123Z",
}
_ITEM: Final[dict[str, Any]] = {
    "key": "flags/dark",
    "revision": 1838482738281473,
    "modified": "2026-11-22T11:40:00.123Z",
    "expires": None,
    "content_type": "text/plain",
    "value": "on",
}

EXAMPLE: Final[dict[str, Any]] = {
    "cursor": "1f0c.1838482738281478",
    "more": False,
    "messages": [
        {
            "type": "gap",
            "cursor": "1f0c.1838482738281474..5a3c9f01",
            "reason": "trimmed",
            "oldest": "1f0c.1838482738281100",
            "snapshot": True,
        },
        {
            "type": "snapshot",
            "cursor": "1f0c.1838482738281474.ZmxhZ3MvZGFyaw.5a3c9f01",
            "first": True,
            "items": [_ITEM],
        },
        {"type": "snapshot_end", "cursor": "1f0c.1838482738281474"},
        {"type": "events", "cursor": "1f0c.1838482738281478", "events": [_TOUCH, _DELETE]},
    ],
}
"""The answer to a poll whose `since` was too old, with `snapshot=true`."""
STREAM: Final[list[dict[str, Any]]] = [
    {"type": "bookmark", "cursor": "1f0c.1838482738281472", "time": "2026-11-22T11:39:50.000Z"},
    {"type": "events", "cursor": "1f0c.1838482738281473", "events": [_PUT]},
    {
        "type": "activity",
        "cursor": "1f0c.1838482738281473",
        "op": "read",
        "key": "flags/dark",
        "time": "2026-11-22T11:40:01.000Z",
    },
    {"type": "closing", "cursor": "1f0c.1838482738281473", "reason": "stop", "retry_ms": 1500},
]
"""Messages of a stream, to its end."""


def as_lines() -> str:
    """That stream as lines of JSON."""
    return "".join(json.dumps(message) + "\n" for message in STREAM)


def as_events() -> str:
    """That stream as server-sent events."""
    return "retry: 2000\n" + "".join(f"id: {message['cursor']}\ndata: {json.dumps(message)}\n\n" for message in STREAM)
