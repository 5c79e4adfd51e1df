"""When a feed connection is handed over, and what its client gets without a gateway. See `handover` for the way."""

from __future__ import annotations

from typing import Final

from kvserver.http import handshake
from kvserver.http.responses import Headers
from kvserver.http.scope import ROUTE
from kvserver.web import handover
from kvserver.web.eager import run_eagerly
from kvserver.web.exchange import Exchange
from kvserver.web.parsing.request import IncomingRequest, RequestHead
from kvserver.web.ports import ConnectionPort
from shards.wire.errors import KVError

_EVENTS_LATER: Final[Headers] = [
    (b"content-type", handshake.EVENT_STREAM),
    (b"cache-control", b"no-store, no-transform"),
]
"""Headers of the answer to EventSource without a gateway."""


def begin_handover(
    connection: ConnectionPort, request: IncomingRequest, message: RequestHead, arrived: bytearray
) -> None:
    """Begin to give the connection to a gateway, with `request`, which asks for a feed, and all bytes after its head.

    `message`: of the request. `arrived`: bytes after it; more may be added in the meantime.
    """
    request.scope[ROUTE] = request.path.decode()
    connection.answering = exchange = Exchange(connection, request)
    head = message.format_head(request, request.headers)
    run_eagerly(connection.loop, connection.context.tasks, _hand_over(connection, exchange, head, arrived))


async def _hand_over(connection: ConnectionPort, exchange: Exchange, head: bytes, arrived: bytearray) -> None:
    """Give the connection to a gateway when earlier answers have left; else answer 503, or to EventSource, which would
    never come back after it, an empty stream of events, after which it does.

    `head`: of the request, as it is sent.
    """
    transport, load = connection.transport, connection.context.load
    try:
        await handover.until_written(transport)
        if not transport.is_closing():
            await handover.hand_over(
                connection.loop,
                connection.context.board,
                transport,
                connection.peer.address,
                head,
                arrived,
                lambda: load.stopping,
            )
    except KVError as error:
        exchange.keep_alive = False
        if transport.is_closing():
            return
        if isinstance(error, handover.NoGateway) and handshake.is_event_stream(exchange.request.headers):
            exchange.answer(200, _EVENTS_LATER, handshake.RETRY)
        else:
            exchange.refuse(error)
        return
    connection.answering = None  # the gateway answers, counts and logs the request
    transport.abort()  # closes our descriptor of the socket; the gateway's lives on
