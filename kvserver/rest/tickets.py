"""`/v1/tickets`: tickets with which browsers open a feed, since they cannot send a token with it."""

from __future__ import annotations

from typing import Final

import msgspec
from falcon.asgi import Request, Response

from kvserver.access.tickets import Kind, Tickets
from kvserver.api import query
from kvserver.api.times import rfc3339
from kvserver.http.scope import GRANTS
from kvserver.rest import bodies
from shards.wire.errors import BadRequest

JSON: Final = "application/json"


class Asked(msgspec.Struct, forbid_unknown_fields=True, rename={"kind": "for"}):
    """The body of a request for a ticket."""

    kind: Kind


_decode = msgspec.json.Decoder(Asked).decode


class TicketOffice:
    """`/v1/tickets`"""

    def __init__(self, tickets: Tickets) -> None:
        self._tickets = tickets

    async def on_post(self, req: Request, resp: Response) -> None:
        """201 with a ticket and when it ends."""
        query.parse(req.scope["query_string"], query.NOTHING)
        bodies.refuse_coded(req)
        bodies.own_type(req, JSON)
        body = await bodies.read_json(req)
        try:
            asked = _decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise BadRequest(f'expected {{"for":"sse"}} or {{"for":"websocket"}}: {error}') from None
        text, expires_ms = self._tickets.issue(req.scope[GRANTS], asked.kind)
        resp.status = 201
        resp.content_type = JSON
        resp.data = msgspec.json.encode({"ticket": text, "expires": rfc3339(expires_ms)})
