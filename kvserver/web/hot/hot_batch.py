"""A small batch of the hot path, from its operations to its answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from kvserver.access.grants import Grants
from kvserver.http import routes
from kvserver.http.scope import ROUTE
from kvserver.web.eager import run_eagerly
from kvserver.web.exchange import Exchange
from kvserver.web.hot.fields import HeaderFields
from kvserver.web.limits.charge import Charge
from kvserver.web.parsing.request import IncomingRequest
from kvserver.web.ports import ConnectionPort
from shards.wire.errors import KVError

log = logging.getLogger("kvserver.web.http")


class HotBatch:
    """A batch whose answer is due; in flight from its construction on.

    Attributes:
        disconnected: set by the connection when its client has left.
    """

    __slots__ = ("_begun_at", "_charge", "_connection", "_fields", "disconnected")

    def __init__(
        self, connection: ConnectionPort, fields: HeaderFields, begun_at: float, grants: Grants | None
    ) -> None:
        self._connection, self._fields, self._begun_at = connection, fields, begun_at
        self.disconnected = False
        load, quota = connection.context.load, connection.peer.quota
        self._charge = Charge(load, quota)
        self._charge.hold_bytes(fields.length)
        self._charge.begin(load.find_quotas(quota, grants))

    def start(self, work: Awaitable[bytes]) -> None:
        """Answer with what `work` makes, at once if it need not wait."""
        connection = self._connection
        run_eagerly(connection.loop, connection.context.tasks, self._run(work))

    async def _run(self, work: Awaitable[bytes]) -> None:
        try:
            body = await work
        except KVError as error:
            self._become_exchange().answer_error(error)
        except asyncio.CancelledError:
            self._connection.flow.reset()
            self._charge.release()
            raise
        except Exception as error:
            log.error("a batch failed", exc_info=error)
            self._become_exchange().answer_error(KVError())
        else:
            self._send_answer(body)

    def _send_answer(self, body: bytes) -> None:
        """Write the answer, unless the client left or the worker stops."""
        connection, fields = self._connection, self._fields
        if self.disconnected or connection.context.load.stopping:
            self._become_exchange().answer(200, [(b"content-type", fields.stored_type.encode())], body)
            return
        write_answer(connection, fields, body, self._begun_at)
        self._charge.release()
        connection.finish_write()

    def _become_exchange(self) -> Exchange:
        """Put the exchange that the ordinary path would have in this request's place."""
        connection, fields = self._connection, self._fields
        request = IncomingRequest(self._begun_at, "POST", routes.BATCH.encode())
        request.accept, request.origin, request.keep_alive = fields.accept, fields.origin, True
        request.scope = {ROUTE: routes.BATCH}
        exchange = Exchange.for_hot_path(connection, request, self._charge, self.disconnected)
        connection.answering = exchange
        return exchange


def write_answer(connection: ConnectionPort, fields: HeaderFields, body: bytes, begun_at: float) -> None:
    """Write the whole answer to a batch, and record it."""
    context = connection.context
    head = context.heads[fields.origin != b""].of_status(200)
    content_type = fields.stored_type.encode()
    connection.transport.write(
        b"%bcontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (head, content_type, len(body), body)
    )
    context.record_answer(connection.peer.address, "POST", routes.BATCH, routes.BATCH.encode(), 200, begun_at)
