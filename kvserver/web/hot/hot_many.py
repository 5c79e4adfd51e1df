"""Small batches and small pages of lists on the hot path, from what is asked to the answer."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from kvserver.access.grants import EVERYTHING, Grants
from kvserver.http import compression
from kvserver.one_key.answers import Answer
from kvserver.web.context import LateAnswer, MakeAnswer, WorkerContext
from kvserver.web.eager import run_eagerly
from kvserver.web.encoding import encode_body
from kvserver.web.hot.hot_request import HotRequest
from kvserver.web.limits.charge import Charge
from kvserver.web.limits.load import LARGE_ANSWER
from shards.wire.errors import KVError

log = logging.getLogger("kvserver.web.http")

_LARGEST_BATCH: Final = 64 << 10
"""Bytes of a batch that may be executed here."""


class ManyRoad:
    """One per worker. Both methods return False, with nothing done, if the request has to take the ordinary path."""

    def __init__(self, context: WorkerContext) -> None:
        self._context, self._load = context, context.load

    def take_list(self, request: HotRequest, query: bytes, grants: Grants | None) -> bool:
        """Answer a GET of `/v1/kv`. `query`: as sent. `grants`: of the client, None: all."""
        small_lists, fields = self._context.small_lists, request.fields
        if small_lists is None or fields.has_body:
            return False
        answer = small_lists.take(query, fields.accept[1:].decode(), grants or EVERYTHING)
        if answer is None:
            return False
        _answer(request, grants, answer)
        return True

    def take_batch(self, request: HotRequest, body: bytes, grants: Grants | None) -> bool:
        """Execute a batch, whose answer may be due later. `body`: whole. `grants`: of the client, None: all."""
        small_batches, length = self._context.small_batches, len(body)
        if length > min(_LARGEST_BATCH, self._context.max_batch) or small_batches is None:
            return False
        if self._load.bytes_held + length > self._load.relaxed_bytes:
            return False
        quota = request.connection.peer.quota
        answer = small_batches.take(request.fields.stored_type, body, grants or EVERYTHING, quota)
        if answer is None:
            return False
        if isinstance(answer, Answer):
            _answer(request, grants, answer)
        else:
            LaterAnswer(request, grants).start(answer)
        return True


def _answer(request: HotRequest, grants: Grants | None, answer: Answer) -> None:
    """Answer at once, unless that is to be done in a coding, which may take a thread."""
    if compression.choose_for(request.fields.accept_encoding, answer.coded_type or "", len(answer.body)) is None:
        request.write_answer(answer)
        request.connection.finish_read()
    else:
        LaterAnswer(request, grants).start(lambda give: give(lambda: answer))


class LaterAnswer:
    """An answer that is due; its request is in flight from the construction on.

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

    def start(self, begin: LateAnswer) -> None:
        """Give the answer that `begin` gets, in the coding that the client accepts."""
        self._request.connection.answering = self
        begin(self._give)

    def _give(self, make_answer: MakeAnswer) -> None:
        fields, connection = self._request.fields, self._request.connection
        try:
            answer = make_answer()
        except Exception as error:
            self._give_up(error)
            return
        if compression.choose_for(fields.accept_encoding, answer.coded_type or "", len(answer.body)) is None:
            self._send(answer)
        else:
            run_eagerly(connection.loop, connection.context.tasks, self._give_coded(answer))

    async def _give_coded(self, answer: Answer) -> None:
        request = self._request
        try:
            coding, body = await encode_body(request.fields.accept_encoding, answer.body, answer.coded_type or "")
        except asyncio.CancelledError:
            request.connection.flow.reset()
            self._charge.release()
            raise
        except Exception as error:
            self._give_up(error)
        else:
            self._send(answer.with_coding(coding, body) if coding else answer)

    def _give_up(self, error: Exception) -> None:
        """Answer with `error`; if it is a fault of the server, log it and answer that there is one."""
        request = self._request
        if not isinstance(error, KVError):
            log.error("%s %r failed", request.method, request.path, exc_info=error)
            error = KVError()
        request.become_exchange(self._charge, self.disconnected).answer_error(error)

    def _send(self, answer: Answer) -> None:
        """Write the answer. If it is large, the client has left, or the worker stops, an exchange does what is to be
        done then."""
        request = self._request
        if self.disconnected or request.connection.context.load.stopping or len(answer.body) >= LARGE_ANSWER:
            request.become_exchange(self._charge, self.disconnected).give(answer)
            return
        request.write_answer(answer)
        self._charge.release()
        request.connection.finish_write()
