"""The operations of the routes at the root, which are MemoryKV's. Pure."""

from __future__ import annotations

from typing import Final

from kvserver.description.bodies import ref
from kvserver.description.headers import LOCATION
from kvserver.description.operations import (
    BYTES,
    EXAMPLE_URL,
    GIVEN,
    JSON,
    OCTETS,
    OF_READS,
    OF_WRITES,
    Media,
    Operation,
    Success,
)
from kvserver.http import routes
from shards.wire.errors import BadKey, BadTicket, Forbidden, KeyTooLong, NotFound

TAG: Final = "MemoryKV"

_URL: Final = EXAMPLE_URL
_KEYS: Final = {JSON: Media(ref("Keys"), ["flags/checkout", "theme"])}
_VALUE: Final = {OCTETS: BYTES}

OPERATIONS: Final = (
    Operation(
        route=routes.KEY,
        method="put",
        tag=TAG,
        summary="Store a value",
        description="Its Content-Type is kept, and shown by version 1 alone.",
        body=GIVEN,
        grants="`read` and `write`",
        answers=(Success(200, "The previous value, empty if there was none.", _VALUE),),
        errors=(*OF_WRITES, Forbidden, BadKey, KeyTooLong),
        examples=(f"curl -X PUT -d dark {_URL}/theme", f"curl -X PUT -d '{{\"on\":true}}' {_URL}/flags%2Fcheckout"),
    ),
    Operation(
        route=routes.KEY,
        method="get",
        tag=TAG,
        summary="Read a value",
        description="An absent key reads as an empty value. The keys `docs`, `console` and `sdk`, where they are "
        "absent, send whoever accepts `text/html` to a page.",
        grants="`read`",
        answers=(
            Success(200, "The value, empty if the key is absent.", _VALUE),
            Success(302, "The page.", headers=(LOCATION,)),
        ),
        errors=(*OF_READS, BadKey, Forbidden),
        examples=(f"curl {_URL}/theme",),
    ),
    Operation(
        route=routes.KEY,
        method="delete",
        tag=TAG,
        summary="Delete a key",
        grants="`read` and `write`",
        answers=(Success(200, "The deleted value.", _VALUE),),
        errors=(*OF_WRITES, Forbidden, BadKey, NotFound),
        examples=(f"curl -X DELETE {_URL}/theme",),
    ),
    Operation(
        route=routes.KEYS,
        method="get",
        tag=TAG,
        summary="List all keys",
        grants="`read` on all keys",
        answers=(Success(200, "All keys in byte order.", _KEYS),),
        errors=(*OF_READS, Forbidden),
        examples=(f"curl {_URL}/keys",),
    ),
    Operation(
        route=routes.KEYS,
        method="delete",
        tag=TAG,
        summary="Delete everything",
        grants="`write` on all keys",
        answers=(Success(200, "Empty."),),
        errors=(*OF_WRITES, Forbidden),
        examples=(f"curl -X DELETE {_URL}/keys",),
    ),
    Operation(
        route=routes.PREFIX,
        method="get",
        tag=TAG,
        summary="List the keys with a prefix",
        grants="`read` on the whole prefix",
        answers=(Success(200, "Keys in byte order.", _KEYS),),
        errors=(*OF_READS, Forbidden, BadKey),
        examples=(f"curl {_URL}/keys/flags%2F",),
    ),
    Operation(
        route=routes.PREFIX,
        method="delete",
        tag=TAG,
        summary="Delete the keys with a prefix",
        grants="`read` and `write` on the whole prefix",
        answers=(Success(200, "The deleted keys.", _KEYS),),
        errors=(*OF_WRITES, Forbidden, BadKey),
        examples=(f"curl -X DELETE {_URL}/keys/flags%2F",),
    ),
    Operation(
        route=routes.WAL,
        method="get",
        tag=TAG,
        summary="Follow every change",
        description="A WebSocket: the request needs `Connection: Upgrade`, `Upgrade: websocket`, "
        "`Sec-WebSocket-Version: 13` and a `Sec-WebSocket-Key`. Each frame is a line of text, such as "
        "`Insert { key: theme, value: dark }`; with the request header `Content-Type: application/octet-stream` "
        "frames are binary.",
        grants="`feed`, and lines of other keys are left out",
        answers=(Success(101, "The feed begins."),),
        errors=(*OF_READS, Forbidden, BadTicket),
    ),
    Operation(
        route=routes.PING,
        method="get",
        tag=TAG,
        summary="Is anybody there",
        answers=(Success(200, "`pong`", {OCTETS: Media({"type": "string", "enum": ["pong"]}, "pong")}),),
        examples=(f"curl {_URL}/ping",),
    ),
)
