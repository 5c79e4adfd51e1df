"""A small batch of the hot path, from its operations to its answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from kvserver.access.grants import Grants
from kvserver.one_key.answers import Answer
from kvserver.web.eager import run_eagerly
from kvserver.web.exchange import Exchange
from kvserver.web.hot.hot_request import HotRequest
from kvserver.web.limits.charge import Charge
from shards.wire.errors import KVError

log = logging.getLogger("kvserver.web.http")


class HotBatch:
    """A batch whose answer is due; in flight from its construction on.

    Attributes:
        disconnected: set by the connection when its client has left.
    """

    __slots__ = ("_charge", "_request", "disconnected")

    def __init__(self, request: HotRequest, grants: Grants | None) -> None:
        self._request, self.disconnected = request, False
        load, quota = request.connection.context.load, request.connection.peer.quota
        self._charge = Charge(load, quota)
        self._charge.hold_bytes(request.fields.length)
        self._charge.begin(load.find_quotas(quota, grants))

    def start(self, work: Awaitable[bytes]) -> None:
        """Answer with what `work` makes, at once if it need not wait."""
        connection = self._request.connection
        run_eagerly(connection.loop, connection.context.tasks, self._run(work))

    async def _run(self, work: Awaitable[bytes]) -> None:
        try:
            body = await work
        except KVError as error:
            self._become_exchange().answer_error(error)
        except asyncio.CancelledError:
            self._request.connection.flow.reset()
            self._charge.release()
            raise
        except Exception as error:
            log.error("a batch failed", exc_info=error)
            self._become_exchange().answer_error(KVError())
        else:
            self._send_answer(body)

    def _send_answer(self, body: bytes) -> None:
        """Write the answer, unless the client left or the worker stops."""
        request = self._request
        if self.disconnected or request.connection.context.load.stopping:
            self._become_exchange().answer(200, [(b"content-type", request.fields.stored_type.encode())], body)
            return
        request.write_answer(answer_batch(request, body))
        self._charge.release()
        request.connection.finish_write()

    def _become_exchange(self) -> Exchange:
        return self._request.become_exchange(self._charge, self.disconnected)


def answer_batch(request: HotRequest, body: bytes) -> Answer:
    """The answer to a batch, in the format of the batch."""
    return Answer(200, [("content-type", request.fields.stored_type)], body)
