"""The operations of version 1 on keys and on the feed. Pure."""

from __future__ import annotations

from typing import Final

from kvserver.api import feed_query
from kvserver.description import headers, messages
from kvserver.description.bodies import ref
from kvserver.description.headers import (
    ACCEPT_RANGES,
    CONTENT_RANGE,
    CURSOR,
    ETAG,
    EXPIRES,
    LAST_MODIFIED,
    LINK,
    OF_CHANGES,
    PREVIOUS_REVISION,
    REPLAYED,
    REVISION,
)
from kvserver.description.operations import (
    EXAMPLE_URL,
    GIVEN,
    JSON,
    OF_READS,
    OF_WRITES,
    TEXT,
    VALUE,
    Media,
    Operation,
    Success,
)
from kvserver.http import routes
from kvserver.http.responses import MERGE_PATCH
from kvserver.one_key import asked
from kvserver.rest import many
from kvserver.rest.batch import MESSAGE_PACK
from shards.wire.errors import (
    BadCursor,
    BadKey,
    BadTicket,
    BatchFailed,
    BatchTooLarge,
    CrossSlot,
    Forbidden,
    IdempotencyMismatch,
    InsufficientStorage,
    KeyTooLong,
    NoSuchResource,
    NotAnInteger,
    NotFound,
    NotJson,
    Overflow,
    PreconditionFailed,
    RangeNotSatisfiable,
    UnsupportedMediaType,
)

KEY_TAG, MANY_TAG, FEED_TAG = "One key", "Many keys", "The feed"

_KV: Final = f"{EXAMPLE_URL}/v1/kv"
_OF_KEY: Final = (BadKey, KeyTooLong, PreconditionFailed, Forbidden)
_OF_CHANGE: Final = (*_OF_KEY, IdempotencyMismatch)
_WRITTEN: Final = (ETAG, REVISION)
_CHANGED: Final = (*_WRITTEN, REPLAYED)
_COUNTER: Final = "Of an increment: the sum."

_KEY: Final = (
    Operation(
        route=routes.KV,
        method="put",
        tag=KEY_TAG,
        summary="Store a value",
        description="Its Content-Type is kept; without one it is octets, and so is what `curl -d` sends. Without `ttl` "
        "and `expires` the key never expires, whatever it did before. A repeat with `return=previous` is 204 where the "
        "old value has more than 4 KiB.",
        parameters=asked.PUT,
        headers=OF_CHANGES,
        body=GIVEN,
        grants="`write`; with `return=previous` also `read`",
        answers=(
            Success(204, "It replaced a value.", headers=(*_CHANGED, EXPIRES)),
            Success(201, "The key is new.", headers=(*_CHANGED, EXPIRES)),
            Success(200, "With `return=previous`: what was replaced.", VALUE, (*_CHANGED, EXPIRES, PREVIOUS_REVISION)),
        ),
        errors=(*OF_WRITES, *_OF_CHANGE, UnsupportedMediaType),
        examples=(
            f"curl -X PUT -d dark {_KV}/theme",
            f"curl -X PUT -H 'Content-Type: application/json' -d '{{\"on\":true}}' '{_KV}/flags/beta?ttl=3600'",
            f"curl -X PUT -H 'If-None-Match: *' -d ann {_KV}/leader",
        ),
    ),
    Operation(
        route=routes.KV,
        method="get",
        tag=KEY_TAG,
        summary="Read a value",
        headers=headers.OF_READS,
        grants="`read`",
        answers=(
            Success(200, "The value, with its type.", VALUE, (*_WRITTEN, LAST_MODIFIED, EXPIRES, ACCEPT_RANGES)),
            Success(
                206,
                "The range of it that was asked for.",
                VALUE,
                (*_WRITTEN, LAST_MODIFIED, EXPIRES, ACCEPT_RANGES, CONTENT_RANGE),
            ),
            Success(304, "The client has it already.", None, (*_WRITTEN, LAST_MODIFIED, EXPIRES, ACCEPT_RANGES)),
        ),
        errors=(*OF_READS, *_OF_KEY, NotFound, RangeNotSatisfiable),
        examples=(f"curl -i {_KV}/flags/beta", f"curl -H 'Range: bytes=1-4' {_KV}/flags/beta"),
    ),
    Operation(
        route=routes.KV,
        method="patch",
        tag=KEY_TAG,
        summary="Change the JSON that a key holds",
        description="A merge patch (RFC 7396), applied atomically: members replace those of the same name, `null` "
        "removes one. An absent key counts as `{}`. The expiry stays.",
        headers=OF_CHANGES,
        body={MERGE_PATCH.decode(): Media({}, {"on": False, "for": ["staff"]})},
        grants="`write`; without `read` the answer has no value",
        answers=(
            Success(200, "The result.", VALUE, (*_CHANGED, EXPIRES)),
            Success(201, "The result; the key is new.", VALUE, (*_CHANGED, EXPIRES)),
            Success(
                204,
                "It is done; the token does not grant `read`, or a repeat has more than 4 KiB.",
                headers=_CHANGED,
            ),
        ),
        errors=(*OF_WRITES, *_OF_CHANGE, NotJson, UnsupportedMediaType),
        examples=(
            f"curl -X PATCH -H 'Content-Type: application/merge-patch+json' -d '{{\"for\":[\"staff\"]}}' "
            f"{_KV}/flags/beta",
        ),
    ),
    Operation(
        route=routes.KV,
        method="post",
        tag=KEY_TAG,
        summary="Add to a counter, or change the expiry alone",
        description="Exactly one of `incr`, `ttl`, `expires` and `persist`; no body. Counters are decimal digits with "
        "or without a minus, within 64 bits; they keep their expiry.",
        parameters=asked.POST,
        headers=OF_CHANGES,
        grants="`write`; without `read` the answer has no sum",
        answers=(
            Success(200, _COUNTER, VALUE, (*_CHANGED, EXPIRES)),
            Success(201, f"{_COUNTER} The key is new.", VALUE, (*_CHANGED, EXPIRES)),
            Success(
                204, "Of a change of the expiry; and of an increment without `read`.", headers=(*_CHANGED, EXPIRES)
            ),
        ),
        errors=(*OF_WRITES, *_OF_CHANGE, NotFound, NotAnInteger, Overflow),
        examples=(
            f"curl -X POST '{_KV}/visits?incr=1'",
            f"curl -X POST '{_KV}/visits?ttl=60'",
            f"curl -X POST '{_KV}/visits?persist=true'",
        ),
    ),
    Operation(
        route=routes.KV,
        method="delete",
        tag=KEY_TAG,
        summary="Delete a key",
        headers=OF_CHANGES,
        grants="`write`",
        answers=(Success(204, "It is deleted.", headers=(REVISION, REPLAYED)),),
        errors=(*OF_WRITES, *_OF_CHANGE, NotFound),
        examples=(f"curl -X DELETE {_KV}/leader",),
    ),
)

_ITEM: Final = {
    "key": "flags/beta",
    "revision": 57,
    "size": 11,
    "content_type": "application/json",
    "created": "2026-11-22T11:40:00.123Z",
    "modified": "2026-11-22T11:40:00.123Z",
    "expires": None,
}
_OPERATIONS: Final = [
    {"op": "get", "key": "{cart}paid", "if_revision": 0},
    {"op": "put", "key": "{cart}a", "value": "1", "ttl": 60},
    {"op": "put", "key": "{cart}b", "json": {"n": 1}},
    {"op": "patch", "key": "{cart}b", "patch": {"n": 2}},
    {"op": "incr", "key": "{cart}n", "by": 2},
    {"op": "touch", "key": "{cart}a", "persist": True},
    {"op": "get", "key": "{cart}n"},
    {"op": "delete", "key": "{cart}a"},
]
_RESULTS: Final = [
    {"status": 201, "revision": 58},
    {"status": 200, "revision": 61, "content_type": "application/octet-stream", "expires": None, "value": "2"},
    {"status": 412, "revision": 60, "code": "precondition_failed", "detail": "the key has another revision"},
]

_MANY: Final = (
    Operation(
        route=routes.MANY,
        method="get",
        tag=MANY_TAG,
        summary="List keys",
        description="In byte order, in pages. With `Accept: application/x-ndjson` the whole range, a line each; then "
        "`limit` is refused.",
        parameters=many.LIST,
        headers=(headers.MIN_REVISION,),
        grants="`read` on a part of the prefix, of which the list then is",
        answers=(
            Success(
                200,
                "A page; with `count=true` how many there are.",
                {
                    JSON: Media(
                        {"oneOf": [ref("Page"), ref("Count")]}, {"items": [_ITEM], "prefixes": ["users/"], "next": None}
                    ),
                    many.LINES: Media(ref("Line")),
                },
                (CURSOR, LINK),
            ),
        ),
        errors=(*OF_READS, Forbidden),
        examples=(
            f"curl '{_KV}?prefix=flags/&limit=10'",
            f"curl '{_KV}?delimiter=/&count=true'",
            f"curl '{_KV}?delimiter=/&delimiter=:'",
            f"curl -H 'Accept: application/x-ndjson' '{_KV}?values=true'",
        ),
    ),
    Operation(
        route=routes.BATCH,
        method="post",
        tag=MANY_TAG,
        summary="Many operations in one request",
        description="Each on its own, or all or nothing with `atomic`; in order for each key. JSON or "
        "MessagePack, answered in kind; JSON is also what no type and `application/x-www-form-urlencoded` are taken "
        "for, but of pages in browsers. At most 10,000 operations. One that is malformed refuses the whole batch. Each "
        "write is known by the Idempotency-Key and its index, an atomic batch as a whole; other gets are read "
        "again.\n\n"
        "A condition, `if_revision`, that does not hold is 412 and fails an atomic batch. On a `get` it is a check "
        "without a write; a key that must be absent, and is, is answered as any absent key, 404, which fails nothing.",
        headers=(headers.IDEMPOTENCY_KEY,),
        body={
            JSON: Media(ref("Batch"), {"atomic": True, "ops": _OPERATIONS}),
            **dict.fromkeys(MESSAGE_PACK, Media(ref("BatchInMessagePack"))),
        },
        grants="for each operation what it would need alone; one that is not granted has the status 403",
        answers=(
            Success(
                200,
                "A result for each operation, in their order.",
                {
                    JSON: Media(ref("BatchAnswer"), {"results": _RESULTS}),
                    **dict.fromkeys(MESSAGE_PACK, Media(ref("BatchAnswer"))),
                },
                (REPLAYED,),
            ),
        ),
        errors=(*OF_WRITES, BadKey, CrossSlot, BatchFailed, BatchTooLarge, IdempotencyMismatch, UnsupportedMediaType),
        examples=(
            'curl -d \'{"ops":[{"op":"incr","key":"visits"},{"op":"get","key":"theme"}]}\' '
            "http://localhost:8080/v1/batch",
        ),
    ),
    Operation(
        route=routes.MANY,
        method="delete",
        tag=MANY_TAG,
        summary="Delete the keys with a prefix",
        description="Not what is written after it began. After 5 seconds it answers `complete: false`: repeat it with "
        "`cut`.",
        parameters=many.DELETE,
        grants="`write` on the whole prefix; `read` too for `dry_run`, or a `cut` that no answer gave to this token",
        answers=(
            Success(200, "What it did.", {JSON: Media(ref("Deleted"), {"deleted": 2, "complete": True, "cut": 61})}),
        ),
        errors=(*OF_WRITES, Forbidden),
        examples=(f"curl -X DELETE '{_KV}?prefix=flags/&dry_run=true'", f"curl -X DELETE '{_KV}?prefix=flags/'"),
    ),
)

_FEED: Final = (
    Operation(
        route=routes.FEED,
        method="get",
        tag=FEED_TAG,
        summary="Follow every change",
        description="The same messages in four ways: a WebSocket (subprotocols `kv.json`, `kv.msgpack`), server-sent "
        "events, lines of JSON, or the answer to one poll. Each message has a cursor; a client that reconnects with "
        "its last one, as `since` or `Last-Event-ID`, misses nothing and gets nothing twice.\n\n"
        "Each message is a `FeedMessage`; its `type` says which. To keep a copy of the store: on `gap`, and at "
        "the start of a snapshot, clear it; add `items` and `put` events, remove deleted keys, save the "
        "cursor. A client may disconnect after any message. Without `since` and `snapshot` a stream begins with a "
        "`bookmark`, and a poll answers at once with a cursor; a `bookmark` also comes after 10 s of silence. After "
        "`closing` a WebSocket is closed with 1012, or 3000 if the token was revoked; other streams end.\n\n"
        "Server-sent events have the cursor as `id`, the message as one `data`, no `event`; the first one has `retry` "
        "too. Lines are a message each. "
        "What a client sends is dropped; more than 64 KiB in a message closes with 1009. Pages without a grant, or "
        "with a `since` that is not a cursor, get an `error` on their WebSocket, which is then closed with 3000 or "
        "3003. If there is no more room for clients, in all or of one address, or for what clients have not read "
        "yet, the answer is 503. A stream or poll takes no place among the requests in flight.",
        parameters=feed_query.FEED,
        headers=(headers.LAST_EVENT_ID,),
        grants="`feed` on a part of a prefix, and nothing else: it shows values, those of a snapshot too. Events and "
        "items outside are not shown. Heartbeats need `admin`",
        answers=(
            Success(101, "The feed begins."),
            Success(
                200,
                "A stream, as Accept says, or the answer to a poll.",
                {
                    JSON: Media(ref("Polled"), messages.EXAMPLE),
                    "text/event-stream": Media(TEXT.schema, messages.as_events()),
                    "application/x-ndjson": Media(TEXT.schema, messages.as_lines()),
                },
            ),
        ),
        errors=(NoSuchResource, BadCursor, BadTicket, Forbidden, *OF_READS),
        examples=(
            "curl 'http://localhost:8080/v1/feed?prefix=flags/&snapshot=true'",
            "curl -N -H 'Accept: text/event-stream' 'http://localhost:8080/v1/feed?ops=put,delete:expire&values=false'",
            "curl 'http://localhost:8080/v1/feed?since=1f0c.1838482738281478&wait=30&conflate=true'",
        ),
    ),
    Operation(
        route=routes.TICKETS,
        method="post",
        tag=FEED_TAG,
        summary="A ticket for a feed, or for a page",
        description="For `sse` and `websocket`: browsers cannot send a token when they open a feed, but they can send "
        "`?ticket=`. Such a ticket is valid for 30 seconds and one connection.\n\n"
        "For `kv`: a part of the rights of the token that is sent, for `ttl` seconds (1 to 3,600; 300 if left out). It "
        "is sent as a token is, `Authorization: Bearer …`, to REST and to the feed, and can ask for tickets itself. A "
        "backend gives one to the page of its user. It ends with its time, with its token, and when the server "
        "restarts; whatever is taken from the token is taken from it. Feeds that it opened are closed then.",
        body={
            JSON: Media(
                ref("TicketRequest"),
                {"for": "kv", "grants": [{"prefix": "rooms/7/", "allow": ["read", "feed"]}], "ttl": 300},
            )
        },
        grants="`feed` on any key; for `kv` all that is asked for",
        answers=(
            Success(
                201,
                "The ticket, and when it ends.",
                {JSON: Media(ref("Ticket"), {"ticket": "5RlmlV9GzmxP3KdD0b", "expires": "2026-11-22T11:40:30.123Z"})},
            ),
        ),
        errors=(Forbidden, UnsupportedMediaType, InsufficientStorage),
        examples=(
            'curl -d \'{"for":"websocket"}\' http://localhost:8080/v1/tickets',
            'curl -d \'{"for":"kv","grants":[{"prefix":"rooms/7/","allow":["read","feed"]}]}\' '
            "http://localhost:8080/v1/tickets",
        ),
    ),
)

OPERATIONS: Final = (*_KEY, *_MANY, *_FEED)
