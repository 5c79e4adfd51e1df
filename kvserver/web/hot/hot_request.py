"""A request that the hot path has taken, and how it is answered."""

from __future__ import annotations

import logging
import secrets

import msgspec

from kvserver.http import routes
from kvserver.http.responses import format_headers, render_error
from kvserver.http.scope import ROUTE
from kvserver.http.value_headers import CACHING
from kvserver.one_key.answers import Answer
from kvserver.web.exchange import Exchange
from kvserver.web.hot.fields import HeaderFields
from kvserver.web.limits.charge import Charge
from kvserver.web.parsing.request import IncomingRequest
from kvserver.web.ports import ConnectionPort
from shards.wire.errors import KVError

log = logging.getLogger("kvserver.web.http")


class HotRequest(msgspec.Struct, frozen=True):
    """A request that the hot path has taken.

    Attributes:
        connection: on which it came.
        method: as sent.
        path: as sent, without the query.
        at_root: it is MemoryKV's.
        fields: its header fields.
        begun_at: when it arrived, by `perf_counter`.
    """

    connection: ConnectionPort
    method: str
    path: bytes
    at_root: bool
    fields: HeaderFields
    begun_at: float

    def write_answer(self, answer: Answer) -> None:
        """Write an answer of version 1, and record it."""
        status, headers, body = answer.status, answer.headers, answer.body
        heads = self.connection.context.heads[self.fields.origin != b""]
        start = heads.of_value_with(status) if CACHING in headers else heads.of_status(status)
        if status in (204, 304) or self.method == "HEAD":
            self.write(status, b"%b%b\r\n" % (start, format_lines(headers)))
        else:
            self.write(status, b"%b%bcontent-length: %d\r\n\r\n%b" % (start, format_lines(headers), len(body), body))

    def write_error(self, error: KVError) -> None:
        """Write the answer that tells of `error`, and record it."""
        request_id = secrets.token_hex(8).encode()
        log.debug("%s %r: %s: %s (request %s)", self.method, self.path, error.code, error, request_id.decode())
        status, headers, body = render_error(error, self.path, self.fields.accept, request_id)
        if self.method == "HEAD":
            body = b""
        head = self.connection.context.heads[self.fields.origin != b""].of_status(status)
        self.write(status, b"%b%b\r\n%b" % (head, format_headers(headers), body), request_id)

    def write(self, status: int, data: bytes, request_id: bytes = b"") -> None:
        """Write the whole answer `data`, and record it."""
        connection, route = self.connection, routes.KEY if self.at_root else routes.KV
        connection.transport.write(data)
        connection.context.record_answer(
            connection.peer.address, self.method, route, self.path, status, self.begun_at, request_id
        )

    def become_exchange(self, charge: Charge, disconnected: bool) -> Exchange:
        """Put the exchange that the ordinary path would have in this request's place.

        `charge`: what the request has added to the load. `disconnected`: its client has left.
        """
        connection, fields = self.connection, self.fields
        request = IncomingRequest(self.begun_at, self.method, self.path)
        request.accept, request.origin, request.keep_alive = fields.accept, fields.origin, True
        request.scope = {ROUTE: routes.KEY if self.at_root else routes.KV}
        exchange = Exchange.for_hot_path(connection, request, charge, disconnected)
        connection.answering = exchange
        return exchange


def format_lines(headers: list[tuple[str, str]]) -> bytes:
    """Header fields as they are sent."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers]).encode("ascii")
