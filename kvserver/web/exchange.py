"""One request and its answer: the ASGI side of a connection.

A request is handed to the application when it has arrived whole, so the application never waits for its client. Head
and body of an answer leave in one system call.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any, Final

from kvserver.access.grants import NOTHING
from kvserver.http import responses, routes
from kvserver.http.responses import ALLOW_ORIGIN, INERT_NAMES, Headers
from kvserver.http.scope import GIVEN_ID, GRANTS, ROUTE
from kvserver.one_key.answers import Answer
from kvserver.web.eager import run_eagerly
from kvserver.web.limits.charge import Charge
from kvserver.web.limits.load import LARGE_ANSWER
from kvserver.web.parsing.request import IncomingRequest
from kvserver.web.ports import ConnectionPort
from shards.wire.errors import InvalidToken, KVError, Overloaded

log = logging.getLogger("kvserver.web.http")

UNCOUNTED: Final = frozenset((routes.LIVE.encode(), routes.READY.encode()))
"""Paths that answer however much the server has to do."""

LEFT: Final = 499
"""The status that is counted if the client left before it had any of its answer (as nginx does)."""

_JOIN_UP_TO: Final = 16 << 10
"""Bodies of answers up to this size are copied after the head, larger ones written next to it."""
_COPY_BELOW: Final = 1 << 20
"""Bodies of requests from this size on reach the application as they were gathered, as a bytearray: copying the largest
would block the event loop for too long."""


class ClientGone(OSError):
    """The client closed the connection before it had the answer."""


class Exchange:
    """One request that is being answered.

    Attributes:
        request: what arrived.
        charge: what it adds to the worker's load.
        disconnected: set by the connection when the client has left.
        keep_alive: whether another request may follow on the connection.
        is_complete: the whole answer is written, or given up.
        request_id: names the request to the client and in the log; empty without an error and an X-Request-Id.
        status: of the answer; 0 before.
        response_headers: that the application, or a refusal, sets.
    """

    __slots__ = (
        "_is_chunked",
        "_is_started",
        "charge",
        "connection",
        "disconnected",
        "is_complete",
        "keep_alive",
        "request",
        "request_id",
        "response_headers",
        "status",
    )

    def __init__(self, connection: ConnectionPort, request: IncomingRequest) -> None:
        self.connection, self.request = connection, request
        self.charge = Charge(connection.context.load)
        self.keep_alive = request.keep_alive
        self.request_id = request.id
        self.status = 0
        self.response_headers: Headers = []
        self.disconnected = self.is_complete = self._is_started = self._is_chunked = False

    @classmethod
    def for_hot_path(
        cls, connection: ConnectionPort, request: IncomingRequest, charge: Charge, disconnected: bool
    ) -> Exchange:
        """The exchange of a write that the hot path has begun, and whose answer it leaves to an exchange.

        `charge`: what the write has added to the load.
        """
        exchange = cls(connection, request)
        exchange.charge, exchange.disconnected = charge, disconnected
        return exchange

    def start(self) -> None:
        """Begin to answer: refuse the request, or run the application up to its first wait."""
        error = self.request.error
        if error is None:
            error = self.recheck_grants() or self._begin_request()
        if error is not None:
            self.refuse(error)
            return
        connection = self.connection
        run_eagerly(connection.loop, connection.context.tasks, self.run())

    def recheck_grants(self) -> KVError | None:
        """Update the client's grants if other tokens came into effect since its head arrived; return the refusal of a
        token that was revoked."""
        tokens, request = self.connection.context.tokens, self.request
        if request.token_generation == tokens.generation:
            return None
        scope = request.scope
        grants = scope.get(GRANTS)
        if grants is None or grants is NOTHING:
            return None
        request.token_generation = tokens.generation
        scope[GRANTS] = tokens.current_grants(grants) or NOTHING
        return InvalidToken() if scope[GRANTS] is NOTHING else None

    def _begin_request(self) -> KVError | None:
        """Count the request as in flight; return `Overloaded` if there is no place for its client.

        Questions about health, and preflights, are not counted.
        """
        request = self.request
        if request.path in UNCOUNTED or request.method == "OPTIONS":
            return None
        connection = self.connection
        load = connection.context.load
        places = load.find_quotas(connection.peer.quota, request.scope.get(GRANTS))
        try:
            load.check_in_flight(places)
        except Overloaded as error:
            return error
        self.charge.begin(places)
        return None

    # The application's side

    async def run(self) -> None:
        """Have the application answer. Raises nothing but `CancelledError`, after a reset of the connection."""
        try:
            await self.connection.app(self.request.scope, self.receive, self.send)
            if not self.is_complete:
                raise RuntimeError("the application did not finish its answer")
        except ClientGone:
            pass
        except asyncio.CancelledError:
            self.connection.flow.reset()
            raise
        except Exception as error:
            self._abandon(error)
        finally:
            if not self.is_complete:
                self._finish()

    def _abandon(self, error: Exception) -> None:
        """Refuse the request, or break its answer off visibly: without the last chunk, or short of its length."""
        request = self.request
        request_id = (self.request_id if self._is_started else self.ensure_request_id()).decode() or "without an id"
        if isinstance(error, KVError):
            log.warning("%s %r broke off: %s (request %s)", request.method, request.path, error, request_id)
        else:
            log.error("%s %r failed (request %s)", request.method, request.path, request_id, exc_info=error)
        if not self._is_started and not self.disconnected:
            self.refuse(error if isinstance(error, KVError) else KVError())
        elif self._is_chunked:
            self.connection.transport.close()
        else:
            self.connection.flow.reset()

    async def receive(self) -> dict[str, Any]:
        """ASGI: the whole body at once."""
        request = self.request
        body, request.body = request.body, b""
        if len(body) < _COPY_BELOW:
            body = bytes(body)
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        """ASGI: the answer. Raises `ClientGone` in a read whose client left; a write continues to its end."""
        if self.disconnected:
            if self.request.method in ("GET", "HEAD"):
                raise ClientGone
            is_last = message["type"] != "http.response.start" and not message.get("more_body", False)
            if is_last and not self.is_complete:
                self._finish()
            return
        if message["type"] == "http.response.start":
            self.status, self.response_headers = message["status"], message["headers"]
            return
        body: bytes = message.get("body", b"")
        more: bool = message.get("more_body", False)
        if len(body) >= LARGE_ANSWER and self.request.method == "GET" and not self._is_started:
            self._check_answer_budget()
        self._write(body, more)
        if self.connection.flow.write_paused:
            await self._wait_until_read(len(body), more)
        if not more:
            self._finish()

    def _check_answer_budget(self) -> None:
        """If there is no room for a large answer, answer `Overloaded` instead and raise `ClientGone`."""
        try:
            self.connection.context.load.check_answer_budget(self.charge.quota)
        except Overloaded as error:
            self.refuse(error)
            raise ClientGone from None

    async def _wait_until_read(self, size: int, more: bool) -> None:
        """Wait until the client has read what was written. Meanwhile it takes memory, but is not in flight.

        The request's body is still in memory too, now for the sake of the answer.
        """
        charge = self.charge
        charge.owe_bytes(size + charge.bytes_held)
        charge.hold_bytes(-charge.bytes_held)
        charge.end()
        await self.connection.flow.drain()
        if more:
            charge.owe_bytes(-size)

    # The connection's side

    def refuse(self, error: KVError) -> None:
        """Answer with `error`."""
        request, request_id = self.request, self.ensure_request_id()
        path = request.path.partition(b"?")[0]  # a ticket may be in the query
        log.debug("%s %r: %s: %s (request %s)", request.method or "-", path, error.code, error, request_id.decode())
        answer = responses.render_error(error, request.path, request.accept, request_id)
        self.status, self.response_headers = answer.status, answer.headers
        self._write(answer.body, False)
        self._finish()

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer at once, without the application."""
        if self.disconnected:
            self._finish()
            return
        self.status, self.response_headers = status, headers
        self._write(body, False)
        connection = self.connection
        if connection.flow.write_paused:
            run_eagerly(connection.loop, connection.context.tasks, self._finish_when_read(len(body)))
        else:
            self._finish()

    def give(self, answer: Answer) -> None:
        """Do what `answer` does with an answer of the hot path."""
        self.answer(answer.status, [(name.encode(), value.encode()) for name, value in answer.headers], answer.body)

    async def _finish_when_read(self, size: int) -> None:
        await self._wait_until_read(size, False)
        self._finish()

    def answer_error(self, error: KVError) -> None:
        """Answer at once with `error`, unless the client has left."""
        if self.disconnected:
            self._finish()
        else:
            self.refuse(error)

    def ensure_request_id(self) -> bytes:
        """The id by which client and log know the request; made at its first error, if the client gave none."""
        self.request_id = self.request_id or secrets.token_hex(8).encode()
        return self.request_id

    def _finish(self) -> None:
        """Give back what the request was charged, count and log it, and let the connection continue."""
        self.is_complete = True
        self.charge.release()
        request, connection = self.request, self.connection
        scope, path = request.scope, request.path
        connection.context.record_answer(
            connection.peer.address,
            request.method,
            scope.get(ROUTE) or routes.find_route(path),
            path,
            self.status or LEFT,
            request.begun_at,
            self.request_id or scope.get(GIVEN_ID, b""),
        )
        connection.finish_exchange(self.keep_alive)

    def _write(self, body: bytes, more: bool) -> None:
        """Write a part of the body, the last unless `more`, and the head before the first part."""
        transport = self.connection.transport
        head = b""
        if not self._is_started:
            self._is_started = True
            head = self._format_head(len(body), more)
        if self.request.method == "HEAD" or self.status in (204, 304):
            body = b""
        elif self._is_chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        if len(body) <= _JOIN_UP_TO:
            transport.write(head + body)
        else:
            transport.writelines((head, body) if head else (body,))

    def _format_head(self, length: int, more: bool) -> bytes:
        """The head of the answer; decides whether it is chunked, and whether the connection stays open.

        `length`: of the first part of the body, the only one unless `more`.
        """
        request, connection, status, own = self.request, self.connection, self.status, self.response_headers
        context = connection.context
        heads, origins = context.heads[bool(request.origin)], context.pages.origins
        parts = [heads.of_status(status)]
        is_sized = request.method == "HEAD" or status in (204, 304)
        for name, value in own:
            if name == b"content-length":
                is_sized = True
            elif name in INERT_NAMES:
                parts[0] = heads.without_own(status, own)
            parts += (name, b": ", value, b"\r\n")
        if not origins.all and (origin := origins.allow_header(request.origin)):
            parts += (ALLOW_ORIGIN, b": ", origin, b"\r\n")
        if not is_sized:
            if not more:
                parts.append(b"content-length: %d\r\n" % length)
            elif request.version == "1.1":
                self._is_chunked = True
                parts.append(b"transfer-encoding: chunked\r\n")
            else:
                self.keep_alive = False  # the end of the connection is the end of the body
        if self.request_id and status < 400:  # a refusal has it among its own
            parts += (b"x-request-id: ", self.request_id, b"\r\n")
        if not self.keep_alive or (context.load.stopping and not connection.has_pending_input):
            self.keep_alive = False
            parts.append(b"connection: close\r\n")
        elif request.version == "1.0":
            parts.append(b"connection: keep-alive\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)
