"""One request and its answer: the ASGI side of a connection.

A request is handed to the application when it has arrived whole, so the application never waits for its client. Head
and body of an answer leave in one system call.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from kvserver.access.grants import NOTHING
from kvserver.web import answers, target
from kvserver.web.answers import ALLOW_ORIGIN, INERT_NAMES, Headers
from shards.errors import InvalidToken, KVError, Overloaded

if TYPE_CHECKING:
    from kvserver.web.http import Protocol

log = logging.getLogger("kvserver.web.http")

ROUTE = "kvserver.route"
"""Key of the scope under which the application leaves the route it took, for metrics."""

SCRIPT = "kvserver.script"
"""Key of the scope that is there if a browser asks for the script of a service worker."""

GIVEN_ID = "kvserver.request_id"
"""Key of the scope under which the request's id is: the client's X-Request-Id, or one that was made for an error."""

GRANTS = "kvserver.grants"
"""Key of the scope under which is what the client may (`kvserver.access.grants.Grants`)."""

UNCOUNTED: Final = frozenset((target.LIVE.encode(), target.READY.encode()))
"""Paths that answer however much the server has to do."""

LEFT: Final = 499
"""What is counted as the status where the client left before it had any of its answer (nginx's number for that)."""

_JOIN_UP_TO = 16 << 10
"""Bodies up to this size are copied behind the head, larger ones written beside it."""
_COPY_BELOW = 1 << 20
"""Bodies of requests from this size on are given to the application as they were gathered, as a bytearray: a copy of
the largest takes longer than others shall wait."""


class ClientGone(OSError):
    """The client closed the connection before it had the answer."""


class Exchange:
    """One request, from its first byte to the last of its answer.

    Attributes:
        headers: as received, names in lower case.
        authorization: the header of that name, None without.
        body: what has arrived of it.
        error: the refusal that is the answer; the application is not asked.
        keep_alive: whether another request may follow on the connection.
        last: it has arrived whole, and its client wants no other to follow.
        counted: it is one of the requests in flight.
        judged_by: generation of the tokens by which its grants were found.
        bytes_held, bytes_owed: what it has added to the worker's.
    """

    __slots__ = (
        "_chunked", "_started", "accept", "authorization", "begun_at", "body", "bytes_held", "bytes_owed", "complete",
        "counted", "disconnected", "error", "headers", "judged_by", "keep_alive", "last", "method", "origin", "path",
        "protocol", "request_id", "scope", "script", "start", "status", "version",
    )  # fmt: skip

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.method, self.path, self.version = "", b"", "1.1"
        self.headers: Headers = []
        self.body: bytes | bytearray = b""
        self.error: KVError | None = None
        self.scope: dict[str, Any] = {}
        self.authorization: bytes | None = None
        self.keep_alive = self.last = self.counted = self.script = False
        self.accept = self.origin = self.request_id = b""
        self.bytes_held = self.bytes_owed = self.judged_by = 0
        self.begun_at = perf_counter()
        self.status = 0
        self.start: Headers = []
        self.disconnected = self.complete = self._started = self._chunked = False

    # The application's side

    async def run(self) -> None:
        """Have the application answer. Never raises but for cancellation, which breaks the connection."""
        try:
            await self.protocol.app(self.scope, self.receive, self.send)
            if not self.complete:
                raise RuntimeError("the application did not finish its answer")
        except ClientGone:
            pass
        except asyncio.CancelledError:
            self.protocol.reset()
            raise
        except Exception as error:
            self._fail(error)
        finally:
            if not self.complete:
                self._finish()

    def _fail(self, error: Exception) -> None:
        """A client must see that an answer is broken off: no end of the chunks, no full length."""
        request_id = (self.request_id if self._started else self._id()).decode() or "without an id"
        if isinstance(error, KVError):
            log.warning("%s %r broke off: %s (request %s)", self.method, self.path, error, request_id)
        else:
            log.error("%s %r failed (request %s)", self.method, self.path, request_id, exc_info=error)
        if not self._started and not self.disconnected:
            self.refuse(error if isinstance(error, KVError) else KVError())
        elif self._chunked:
            self.protocol.transport.close()
        else:
            self.protocol.reset()

    async def receive(self) -> dict[str, Any]:
        """ASGI: the whole body at once."""
        body, self.body = self.body, b""
        if len(body) < _COPY_BELOW:
            body = bytes(body)
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        """ASGI: the answer. Raises `ClientGone` in a read whose client left; a write goes on to its end."""
        if self.disconnected:
            if self.method in ("GET", "HEAD"):
                raise ClientGone
            self.complete = self.complete or self._ends(message)
            return
        if message["type"] == "http.response.start":
            self.status, self.start = message["status"], message["headers"]
            return
        more: bool = message.get("more_body", False)
        self._write(message.get("body", b""), more)
        flow = self.protocol.flow
        if flow.write_paused:
            await self._drained(len(message.get("body", b"")), more)
        if not more:
            self._finish()

    def _ends(self, message: dict[str, Any]) -> bool:
        if message["type"] == "http.response.start" or message.get("more_body", False):
            return False
        self._finish()
        return True

    async def _drained(self, size: int, more: bool) -> None:
        """Wait until the client has taken what was written; it takes memory, but no place among those in flight.

        Its body is still in memory too, and now for the sake of the answer.
        """
        self._owe(size + self.bytes_held)
        self.hold(-self.bytes_held)
        self.leave()
        await self.protocol.flow.drain()
        if more:
            self._owe(-size)

    # The connection's side

    def refuse(self, error: KVError) -> None:
        """Answer with `error`."""
        path, request_id = self.path.partition(b"?")[0], self._id().decode()  # a ticket may stand in the query
        log.debug("%s %r: %s: %s (request %s)", self.method or "-", path, error.code, error, request_id)
        answer = answers.refusal(error, self.path, self.accept, self._id())
        self.status, self.start = answer.status, answer.headers
        self._write(answer.body, False)
        self._finish()

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer at once, without the application."""
        if self.disconnected:
            self._finish()
            return
        self.status, self.start = status, headers
        self._write(body, False)
        if self.protocol.flow.write_paused:
            self.protocol.run(self._finish_when_drained(len(body)))
        else:
            self._finish()

    async def _finish_when_drained(self, size: int) -> None:
        await self._drained(size, False)
        self._finish()

    def answer_error(self, error: KVError) -> None:
        """Answer at once with `error`, of a request that was well-formed."""
        if self.disconnected:
            self._finish()
        else:
            self.refuse(error)

    def _id(self) -> bytes:
        """By what the client and the log know it, from the first error on."""
        self.request_id = self.request_id or secrets.token_hex(8).encode()
        return self.request_id

    def hold(self, size: int) -> None:
        """Count bytes of a body that take memory; negative ones give it back."""
        self.bytes_held += size
        self.protocol.traffic.bytes_held += size

    def _owe(self, size: int) -> None:
        self.bytes_owed += size
        self.protocol.traffic.bytes_owed += size

    def enter(self) -> bool:
        """Count as in flight; False if the server has as many as it takes: then `Overloaded` is the answer.

        Questions about health, and about what may be asked, are not counted.
        """
        if self.path in UNCOUNTED or self.method == "OPTIONS":
            return True
        self.counted = self.protocol.traffic.enter()
        if not self.counted:
            self.error = Overloaded()
        return self.counted

    def judge_again(self) -> None:
        """See what its client may do now: since its head arrived, other tokens may have come into effect."""
        tokens, grants = self.protocol.traffic.tokens, self.scope.get(GRANTS)
        if self.judged_by == tokens.generation or grants is None or grants is NOTHING:
            return
        self.judged_by = tokens.generation
        self.scope[GRANTS] = tokens.current(grants) or NOTHING
        if self.scope[GRANTS] is NOTHING:
            self.error = InvalidToken()

    def leave(self) -> None:
        """Count no longer as in flight."""
        if self.counted:
            self.counted = False
            self.protocol.traffic.leave()

    def _finish(self) -> None:
        self.complete = True
        self.leave()
        if self.bytes_held:
            self.hold(-self.bytes_held)
        if self.bytes_owed:
            self._owe(-self.bytes_owed)
        route = self.scope.get(ROUTE) or target.route_of(self.path)
        request_id = self.request_id or self.scope.get(GIVEN_ID, b"")
        self.protocol.note(self.method, route, self.path, self.status or LEFT, self.begun_at, request_id)
        self.protocol.answered(self)

    def _write(self, body: bytes, more: bool) -> None:
        transport = self.protocol.transport
        head = b""
        if not self._started:
            self._started = True
            head = self._head(len(body), more)
        if self.method == "HEAD" or self.status in (204, 304):
            body = b""
        elif self._chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        if len(body) <= _JOIN_UP_TO:
            transport.write(head + body)
        else:
            transport.writelines((head, body) if head else (body,))

    def _head(self, length: int, more: bool) -> bytes:
        traffic, own = self.protocol.traffic, self.start
        heads, origins = traffic.heads[bool(self.origin)], traffic.pages.origins
        parts = [heads.of(self.status)]
        sized = self.method == "HEAD" or self.status in (204, 304)
        for name, value in own:
            if name == b"content-length":
                sized = True
            elif name in INERT_NAMES:
                parts[0] = heads.without(self.status, own)
            parts += (name, b": ", value, b"\r\n")
        if not origins.all and (origin := origins.allowed(self.origin)):
            parts += (ALLOW_ORIGIN, b": ", origin, b"\r\n")
        if self.request_id and self.status < 400:  # a refusal has it among its own
            parts += (b"x-request-id: ", self.request_id, b"\r\n")
        if not sized:
            if not more:
                parts.append(b"content-length: %d\r\n" % length)
            elif self.version == "1.1":
                self._chunked = True
                parts.append(b"transfer-encoding: chunked\r\n")
            else:
                self.keep_alive = False  # the end of the connection is the end of the body
        if not self.keep_alive or (traffic.stopping and self.protocol.idle_but_for(self)):
            self.keep_alive = False
            parts.append(b"connection: close\r\n")
        elif self.version == "1.0":
            parts.append(b"connection: keep-alive\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)
