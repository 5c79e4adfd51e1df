"""A PUT or DELETE of the hot path, from the shard's queue to its answer."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic_ns
from typing import Final

from kvserver.access.grants import Grants
from kvserver.http import routes
from kvserver.http.idempotency import REPLAYED
from kvserver.http.scope import ROUTE
from kvserver.http.value_headers import OCTETS, revision_headers
from kvserver.store.client import StoreClient
from kvserver.store.links import DEADLINE_S
from kvserver.store.pending import Pending
from kvserver.web.exchange import Exchange
from kvserver.web.hot.fields import HeaderFields
from kvserver.web.limits.charge import Charge
from kvserver.web.limits.load import LARGE_ANSWER
from kvserver.web.parsing.request import IncomingRequest
from kvserver.web.ports import ConnectionPort
from shards.wire.errors import KVError, NotFound
from shards.wire.protocol import Delete, Done, Failed, Once, Put, Replayed, Reply

_OCTETS: Final = [("content-type", OCTETS)]
_REPLAYED: Final = (REPLAYED.lower(), "true")
_DEADLINE_NS: Final = int(DEADLINE_S * 1e9)


class HotWrite(Pending):
    """A PUT whose answer is due; in flight from its construction on.

    It writes a plain answer itself. Any other is written by the `Exchange` that the ordinary path would have.

    Attributes:
        disconnected: set by the connection when its client has left.
    """

    __slots__ = ("_at_root", "_begun_at", "_connection", "_fields", "_path", "_places", "_quota", "disconnected")

    method = "PUT"

    def __init__(
        self,
        connection: ConnectionPort,
        path: bytes,
        at_root: bool,
        fields: HeaderFields,
        begun_at: float,
        grants: Grants | None,
        operation: Put | Delete | Once,
        size: int,
    ) -> None:
        """`path`: as sent; `at_root`: it is MemoryKV's. `size`: bytes of key and value."""
        self._connection, self._path, self._at_root = connection, path, at_root
        self._fields, self._begun_at = fields, begun_at
        self.disconnected = False
        self.operations, self.size, self.count = (operation,), size, 1
        self.deadline_ns = monotonic_ns() + _DEADLINE_NS
        # What `Charge` does, unrolled: another object would cost more than what it does.
        load, self._quota = connection.context.load, connection.peer.quota
        self._places = load.find_quotas(self._quota, grants)
        load.begin_request(self._places)
        load.bytes_held += fields.length
        if self._quota is not None:
            self._quota.bytes += fields.length

    def answer(self, replies: Iterator[Reply]) -> None:
        """Answer with the shard's reply."""
        reply = next(replies)
        if isinstance(reply, Done):
            self.answer_done(reply)
        elif isinstance(reply, Failed):
            self.fail(reply.error())
        else:
            assert isinstance(reply, Replayed) and isinstance(reply.reply, Done)
            self.answer_replayed(reply.reply)

    def fail(self, error: KVError) -> None:
        """Answer that the write was not executed, or that its outcome is unknown."""
        self._become_exchange().answer_error(error)

    def answer_done(self, done: Done) -> None:
        """Answer that the write was executed."""
        if self._at_root:
            self._send_answer(200, _OCTETS, done.previous or b"")
        else:
            self.answer_version1(done)

    def answer_version1(self, done: Done) -> None:
        """Answer at a path of version 1 that the write was executed."""
        self._send_answer(204 if done.existed else 201, revision_headers(done.revision), b"")

    def answer_replayed(self, done: Done) -> None:
        """Answer at a path of version 1 that the write was executed before."""
        self._send_answer(204 if done.existed else 201, [_REPLAYED, *revision_headers(done.revision)], b"")

    def _send_answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Write the answer at once, unless the client left, the worker stops or the answer is large."""
        connection = self._connection
        context = connection.context
        load = context.load
        if self.disconnected or load.stopping or len(body) >= LARGE_ANSWER:
            self._become_exchange().answer(status, [(name.encode(), value.encode()) for name, value in headers], body)
            return
        heads = context.heads[self._fields.origin != b""]
        head = heads.of_octets if headers is _OCTETS else heads.of_status(status) + format_lines(headers)
        if status == 204:
            connection.transport.write(head + b"\r\n")
        else:
            connection.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        load.end_request(self._places)
        load.bytes_held -= self._fields.length
        if self._quota is not None:
            self._quota.bytes -= self._fields.length
        route = routes.KEY if self._at_root else routes.KV
        context.record_answer(connection.peer.address, self.method, route, self._path, status, self._begun_at)
        connection.finish_write()

    def _become_exchange(self) -> Exchange:
        """Put the exchange that the ordinary path would have in this request's place."""
        connection, fields = self._connection, self._fields
        request = IncomingRequest(self._begun_at, self.method, self._path)
        request.accept, request.origin, request.keep_alive = fields.accept, fields.origin, True
        request.scope = {ROUTE: routes.KEY if self._at_root else routes.KV}
        charge = Charge(connection.context.load, self._quota)
        charge.bytes_held, charge.places = fields.length, self._places
        exchange = Exchange.for_hot_path(connection, request, charge, self.disconnected)
        connection.answering = exchange
        return exchange


class HotRemoval(HotWrite):
    """A DELETE whose answer is due."""

    __slots__ = ("_end", "_store")

    method = "DELETE"

    def __init__(
        self,
        connection: ConnectionPort,
        path: bytes,
        at_root: bool,
        fields: HeaderFields,
        begun_at: float,
        grants: Grants | None,
        operation: Delete | Once,
        size: int,
        store: StoreClient,
    ) -> None:
        """`store`: has not sent the operation yet."""
        super().__init__(connection, path, at_root, fields, begun_at, grants, operation, size)
        self._store, self._end = store, store.board.last_revision()

    def answer_done(self, done: Done) -> None:
        """Answer that the key was deleted; one that did not exist is shown as activity."""
        if done.existed:
            super().answer_done(done)
        else:
            [operation] = self.operations
            assert isinstance(operation, Delete | Once)
            self._store.report_missed_delete(operation.key, self._end)
            self.fail(NotFound())

    def answer_version1(self, done: Done) -> None:
        """Answer at a path of version 1 that the key was deleted; it has no ETag."""
        self._send_answer(204, [("kv-revision", str(done.revision))], b"")

    def answer_replayed(self, done: Done) -> None:
        """Answer at a path of version 1 that the key was deleted before."""
        self._send_answer(204, [_REPLAYED, ("kv-revision", str(done.revision))], b"")


def format_lines(headers: list[tuple[str, str]]) -> bytes:
    """Header fields as they are sent."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers]).encode("ascii")
