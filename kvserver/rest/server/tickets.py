"""`/v1/tickets`: what a page sends instead of a token: for one feed, or for requests of the next minutes."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta

from kvserver.access.delegation import MOST_GRANTS, MOST_PREFIX_BYTES, MOST_SECONDS
from kvserver.access.grants import Grants
from kvserver.access.tickets import Tickets
from kvserver.access.tokens import Tokens
from kvserver.api import query
from kvserver.api.times import rfc3339
from kvserver.http.scope import GRANTS
from kvserver.rest import bodies
from shards.wire.errors import BadRequest
from shards.wire.keys import MAX_KEY

JSON: Final = "application/json"
DEFAULT_SECONDS: Final = 300


class AskedGrant(msgspec.Struct, forbid_unknown_fields=True):
    """What is asked for on the keys that start with a prefix."""

    prefix: Annotated[str, Meta(max_length=MAX_KEY)]
    allow: Annotated[list[Literal["read", "write", "feed"]], Meta(min_length=1, max_length=3)]


class ForSse(msgspec.Struct, forbid_unknown_fields=True, tag_field="for", tag="sse"):
    """A ticket for an EventSource."""


class ForWebSocket(msgspec.Struct, forbid_unknown_fields=True, tag_field="for", tag="websocket"):
    """A ticket for a WebSocket."""


class ForRequests(msgspec.Struct, forbid_unknown_fields=True, tag_field="for", tag="kv"):
    """A ticket for requests and feeds. `ttl`: seconds."""

    grants: Annotated[list[AskedGrant], Meta(min_length=1, max_length=MOST_GRANTS)]
    ttl: Annotated[float, Meta(ge=1, le=MOST_SECONDS)] = DEFAULT_SECONDS


Asked = ForSse | ForWebSocket | ForRequests
"""The body of a request for a ticket."""

_decode = msgspec.json.Decoder(Asked).decode


class TicketOffice:
    """`/v1/tickets`"""

    def __init__(self, tickets: Tickets, tokens: Tokens) -> None:
        self._tickets, self._tokens = tickets, tokens

    async def on_post(self, req: Request, resp: Response) -> None:
        """201 with a ticket and when it ends."""
        query.parse(req.scope["query_string"], query.NOTHING)
        bodies.refuse_coded(req)
        bodies.own_type(req, JSON)
        asked = _read(await bodies.read_json(req))
        text, expires_ms = self._issue(req.scope[GRANTS], asked)
        resp.status = 201
        resp.content_type = JSON
        resp.data = msgspec.json.encode({"ticket": text, "expires": rfc3339(expires_ms)})

    def _issue(self, grants: Grants, asked: Asked) -> tuple[str, int]:
        """Return a ticket, and when it ends, in Unix milliseconds. Raises `BadRequest`, and what its issuer raises."""
        if isinstance(asked, ForRequests):
            if sum(len(each.prefix.encode()) for each in asked.grants) > MOST_PREFIX_BYTES:
                raise BadRequest(f"the prefixes of a ticket may have {MOST_PREFIX_BYTES} bytes in all")
            pairs = [(verb, each.prefix.encode()) for each in asked.grants for verb in each.allow]
            return self._tokens.hand_on(grants, pairs, asked.ttl)
        return self._tickets.issue(grants, "sse" if isinstance(asked, ForSse) else "websocket")


def _read(body: bytes) -> Asked:
    """Read the body of a request. Raises `BadRequest`."""
    try:
        return _decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadRequest(
            'expected {"for":"sse"}, {"for":"websocket"}, or '
            f'{{"for":"kv","grants":[{{"prefix":"rooms/7/","allow":["read","feed"]}}],"ttl":300}}: {error}'
        ) from None
