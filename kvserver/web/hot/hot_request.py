"""A request that the hot path has taken, and how it is answered."""

from __future__ import annotations

import logging
import secrets

import msgspec

from kvserver.http.responses import format_headers, render_error
from kvserver.http.scope import ROUTE
from kvserver.http.value_headers import CACHING
from kvserver.one_key.answers import Answer
from kvserver.web.exchange import Exchange
from kvserver.web.hot.fields import HeaderFields, VaryingFields
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
        route: that of its path.
        path: as sent, without the query.
        fields: its header fields.
        varying: those that differ from request to request.
        begun_at: when it arrived, by `perf_counter`.
    """

    connection: ConnectionPort
    method: str
    route: str
    path: bytes
    fields: HeaderFields
    varying: VaryingFields
    begun_at: float

    def write_answer(self, answer: Answer) -> None:
        """Write an answer, and record it."""
        status, headers = answer.status, answer.headers
        heads = self.connection.context.heads[self.fields.origin != b""]
        start = heads.of_value_with(status) if CACHING in headers else heads.of_status(status)
        lines, body = format_lines(headers), answer.body
        if status in (204, 304) or self.method == "HEAD":
            data = b"%b%b%b\r\n" % (start, lines, self.varying.id_line)
        else:
            data = b"%b%bcontent-length: %d\r\n%b\r\n%b" % (start, lines, len(body), self.varying.id_line, body)
        self.write(status, data, self.varying.request_id)

    def write_error(self, error: KVError) -> None:
        """Write the answer that tells of `error`, and record it."""
        request_id = self.varying.request_id or secrets.token_hex(8).encode()
        log.debug("%s %r: %s: %s (request %s)", self.method, self.path, error.code, error, request_id.decode())
        status, headers, body = render_error(error, self.path, self.fields.accept, request_id)
        if self.method == "HEAD":
            body = b""
        head = self.connection.context.heads[self.fields.origin != b""].of_status(status)
        self.write(status, b"%b%b\r\n%b" % (head, format_headers(headers), body), request_id)

    def write(self, status: int, data: bytes, request_id: bytes) -> None:
        """Write the whole answer `data`, and record it. `request_id`: empty if it has none."""
        connection = self.connection
        connection.transport.write(data)
        connection.context.record_answer(
            connection.peer.address, self.method, self.route, self.path, status, self.begun_at, request_id
        )

    def become_exchange(self, charge: Charge, disconnected: bool) -> Exchange:
        """Put the exchange that the ordinary path would have in this request's place.

        `charge`: what the request has added to the load. `disconnected`: its client has left.
        """
        connection, fields = self.connection, self.fields
        request = IncomingRequest(self.begun_at, self.method, self.path)
        request.accept, request.origin, request.id = fields.accept, fields.origin, self.varying.request_id
        request.keep_alive, request.scope = True, {ROUTE: self.route}
        exchange = Exchange.for_hot_path(connection, request, charge, disconnected)
        connection.answering = exchange
        return exchange


def format_lines(headers: list[tuple[str, str]]) -> bytes:
    """Header fields as they are sent."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers]).encode("ascii")
