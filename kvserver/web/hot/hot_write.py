"""Writes of the hot path, from the shard's queue to the answer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from time import monotonic_ns
from typing import Final

from kvserver.access.grants import EVERYTHING, Grants
from kvserver.http import compression
from kvserver.http.value_headers import OCTETS
from kvserver.one_key.answers import Answer, answer_change, redact
from kvserver.one_key.changes import Change
from kvserver.store.client import StoreClient
from kvserver.store.links import DEADLINE_S
from kvserver.store.pending import Pending
from kvserver.web.eager import run_eagerly
from kvserver.web.encoding import encode_body
from kvserver.web.exchange import Exchange
from kvserver.web.hot.hot_request import HotRequest
from kvserver.web.limits.charge import Charge
from kvserver.web.limits.load import LARGE_ANSWER
from shards.wire.errors import KVError, NotFound
from shards.wire.protocol import Delete, Done, Failed, Once, Reply

_DEADLINE_NS: Final = int(DEADLINE_S * 1e9)


class HotWrite(Pending):
    """A write whose answer is due; in flight from its construction on.

    It writes its answer itself, but leaves to an `Exchange` what is large, and what a client that has left or a worker
    that stops makes of it.

    Attributes:
        disconnected: set by the connection when its client has left.
    """

    __slots__ = ("_change", "_end", "_grants", "_places", "_quota", "_request", "_store", "disconnected")

    def __init__(
        self,
        request: HotRequest,
        store: StoreClient,
        grants: Grants | None,
        change: Change,
        size: int,
        once: Once | None = None,
    ) -> None:
        """`store` has not sent `change` yet, nor `once`, which is sent instead. `grants`: of the client, None: all.
        `size`: bytes of key and value."""
        self._request, self._store, self._grants, self._change = request, store, grants, change
        self.disconnected = False
        self.operations, self.size, self.count = (once or change,), size, 1
        self.deadline_ns = monotonic_ns() + _DEADLINE_NS
        self._end = store.board.last_revision() if type(change) is Delete else None
        # What `Charge` does, unrolled: another object would cost more than what it does.
        connection, length = request.connection, request.fields.length
        load, self._quota = connection.context.load, connection.peer.quota
        self._places = load.find_quotas(self._quota, grants)
        load.begin_request(self._places)
        load.bytes_held += length
        if self._quota is not None:
            self._quota.bytes += length

    @abstractmethod
    def answer(self, replies: Iterator[Reply]) -> None:
        """Answer with the shard's reply."""

    def fail(self, error: KVError) -> None:
        """Answer that the write was not executed, or that its outcome is unknown."""
        if self.disconnected or self._request.connection.context.load.stopping:
            self._become_exchange().answer_error(error)
        else:
            self._request.write_error(error)
            self._finish()

    def _become_exchange(self) -> Exchange:
        charge = Charge(self._request.connection.context.load, self._quota)
        charge.bytes_held, charge.places = self._request.fields.length, self._places
        return self._request.become_exchange(charge, self.disconnected)

    def _finish(self) -> None:
        """Give back what the request was charged, and let the connection continue: its answer is written."""
        connection, length = self._request.connection, self._request.fields.length
        load = connection.context.load
        load.end_request(self._places)
        load.bytes_held -= length
        if self._quota is not None:
            self._quota.bytes -= length
        connection.finish_write()


class RootWrite(HotWrite):
    """A PUT or DELETE at the root, as MemoryKV has them: the answer is what was replaced or deleted."""

    __slots__ = ()

    def answer(self, replies: Iterator[Reply]) -> None:
        reply = next(replies)
        if isinstance(reply, Failed):
            self.fail(reply.error())
            return
        assert isinstance(reply, Done)
        if self._end is not None and not reply.existed:
            self._store.report_missed_delete(self._change.key, self._end)
            self.fail(NotFound())
            return
        body, request = reply.previous or b"", self._request
        context = request.connection.context
        if self.disconnected or context.load.stopping or len(body) >= LARGE_ANSWER:
            self._become_exchange().answer(200, [(b"content-type", OCTETS.encode())], body)
        else:
            head = context.heads[request.fields.origin != b""].of_octets
            data = b"%bcontent-length: %d\r\n%b\r\n%b" % (head, len(body), request.varying.id_line, body)
            request.write(200, data, request.varying.request_id)
            self._finish()


class KeyChange(HotWrite):
    """A write of version 1, answered by its rules."""

    __slots__ = ()

    def answer(self, replies: Iterator[Reply]) -> None:
        reply, change, request = next(replies), self._change, self._request
        if self._end is not None and isinstance(reply, Done) and not reply.existed:
            self._store.report_missed_delete(change.key, self._end)
        try:
            if isinstance(reply, Failed):
                raise reply.error()
            answer = answer_change(self._grants or EVERYTHING, change, reply)
        except KVError as error:
            self.fail(error)
            return
        if answer.coded_type is not None and compression.choose_for(
            request.fields.accept_encoding, answer.coded_type, len(answer.body)
        ):
            self._answer_coded(answer)
        elif self.disconnected or request.connection.context.load.stopping or len(answer.body) >= LARGE_ANSWER:
            self._become_exchange().give(answer)
        else:
            request.write_answer(answer)
            self._finish()

    def _answer_coded(self, answer: Answer) -> None:
        """Answer in a coding, which may take a thread."""
        connection, accepted = self._request.connection, self._request.fields.accept_encoding
        exchange = self._become_exchange()
        run_eagerly(connection.loop, connection.context.tasks, _answer_coded(exchange, accepted, answer))

    def fail(self, error: KVError) -> None:
        super().fail(redact(self._grants or EVERYTHING, self._change.key, error))


async def _answer_coded(exchange: Exchange, accept_encoding: str, answer: Answer) -> None:
    """Answer in a coding, if the body is shorter in it."""
    coding, body = await encode_body(accept_encoding, answer.body, answer.coded_type or "")
    exchange.give(answer.with_coding(coding, body) if coding else answer)
