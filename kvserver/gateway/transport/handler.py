"""Hosting of connections: the request head is read and checked here, then gevent-websocket's handler takes over.

An application decides in `admit` which session serves a request; a `WebSocketSession` is then run on its WebSocket, a
`StreamSession` on an answer that lasts. It is a WSGI callable because gunicorn and gevent-websocket want one.
"""

from __future__ import annotations

import contextlib
import io
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from http.client import HTTPMessage
from typing import Any, Protocol, runtime_checkable

import gevent  # type: ignore[import-untyped]
from gevent import socket as gsocket
from gevent.pywsgi import OldMessage  # type: ignore[import-untyped]
from geventwebsocket.exceptions import WebSocketError  # type: ignore[import-untyped]
from geventwebsocket.handler import WebSocketHandler  # type: ignore[import-untyped]
from gunicorn.workers.ggevent import PyWSGIHandler, PyWSGIServer  # type: ignore[import-untyped]

from kvserver.gateway.transport.head import (
    Head,
    parse_head,
    preflight_bytes,
    redact_ticket,
    refusal_bytes,
    upgrade_headers,
)
from kvserver.gateway.transport.limits import ConnectionLimits
from kvserver.gateway.transport.monitor import ConnectionMonitor
from kvserver.gateway.transport.scheduling import breathe
from kvserver.gateway.transport.send_budget import BudgetCharge, SendBudget
from kvserver.gateway.transport.stream import Stream
from kvserver.gateway.transport.websocket import WebSocket
from kvserver.http import head_rules
from kvserver.http.origins import Pages
from shards.host.logs import Recurring
from shards.wire.errors import KVError, Overloaded, RequestTimeout

log = logging.getLogger(__name__)
_failed = Recurring(log, logging.ERROR, "serving %s")

SESSION_KEY = "kvserver.session"
"""The key of the session in the environ."""

_RECEIVE_BYTES = 16 << 10


class WebSocketSession(Protocol):
    """A session on one WebSocket, made by the application.

    Attributes:
        protocol: the subprotocol it chose, empty for none.
    """

    protocol: str

    def run(self, websocket: WebSocket) -> None:
        """Serve the connection until its `receive` returns None. Runs after the 101."""

    def end(self) -> None:
        """Release everything: the connection is gone, or never came to be."""


@runtime_checkable
class StreamSession(Protocol):
    """A session on an answer that lasts, made by the application.

    Attributes:
        head: the bytes to write first.
    """

    head: bytes

    def carry(self, stream: Stream) -> None:
        """Set the source and farewell of `stream`, which is about to run."""

    def end(self) -> None:
        """Release everything: the connection is gone, or never came to be."""


class Application(Protocol):
    """The application that the handler serves."""

    limits: ConnectionLimits
    pages: Pages
    budget: SendBudget

    def admit(self, head: Head, peer: str) -> WebSocketSession | StreamSession:
        """Make the session for a request of `peer` (`ip:port`). Raises `KVError`, which then is the answer."""

    def leave(self, session: WebSocketSession | StreamSession) -> None:
        """End a session that `admit` made."""

    def answered(self, head: Head | None, peer: str, status: int, seconds: float, request_id: bytes) -> None:
        """Count a request of `peer` that was answered, or whose lasting answer has begun, after `seconds`.

        Args:
            head: None if what was sent is no request.
            request_id: that of the answer, empty if it has none.
        """

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Run the session in `environ`."""


def run_session(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Run the session that `admit` made on its WebSocket: the WSGI side of an application."""
    environ[SESSION_KEY].run(environ["wsgi.websocket"])
    return []


class GatewayHandler(WebSocketHandler, PyWSGIHandler):  # type: ignore[misc]
    """One connection: a request head, then its WebSocket, its lasting answer or a refusal; it is closed after any."""

    websocket: WebSocket | None  # no value before the upgrade: the base class looks whether it is there

    def __init__(self, connection: gsocket.socket, address: Any, server: GatewayServer, received: bytes = b"") -> None:
        """Serve `connection`, of which `received` was read already."""
        super().__init__(connection, address, server, rfile=io.BytesIO())
        self._received = bytearray(received)
        self._head: Head | None = None
        self._session: WebSocketSession | None = None
        self.environ: dict[str, Any] = {}
        self.peer = _peer_of(address)
        self._charge = BudgetCharge(server.monitor.budget.of_address(self.peer))  # its head

    def handle(self) -> None:
        """Serve the connection to its end. Never raises for what a client does."""
        self.time_start = time.monotonic()  # only its difference to `time_finish` is logged
        self._begun_at = time.perf_counter()
        try:
            self._serve_request()
        except OSError:
            pass  # the client went away
        finally:
            self._charge.set_bytes(0)
            self._hang_up()

    def _serve_request(self) -> None:
        """Read the head, check it, admit it, run its session, and report its end to the application."""
        try:
            raw = self._read_head()
            if not raw:
                return
            self._head = parse_head(raw)
            session = self._admit_request(self._head)
        except KVError as error:
            self._refuse_request(error)
            return
        if session is None:
            return
        try:
            self._head = self._head.brief()
            self._charge.set_bytes(self._head.size)
            request_line = raw[: raw.index(b"\r\n") + 2]
            del raw
            if isinstance(session, StreamSession):
                self._run_stream(session)
            else:
                self._session = session
                self.rfile = io.BytesIO(request_line + b"\r\n")  # pywsgi wants to read a request by itself
                self.handle_one_request()
        finally:
            if (websocket := getattr(self, "websocket", None)) is not None:  # the client left before the 101
                websocket.discard()
                self.environ["wsgi.websocket"] = self.websocket = None
            self._session = None
            self.server.application.leave(session)

    def _admit_request(self, head: Head) -> WebSocketSession | StreamSession | None:
        """Return what serves the request, None if it is answered already. Raises `KVError`."""
        application = self.server.application
        refusal = application.pages.find_refusal(head.method, head.target, head.headers)
        if refusal is not None:
            raise refusal
        if head.method == "OPTIONS":
            self._answer_whole(200, preflight_bytes(head, application.pages.origins))
            return None
        session: WebSocketSession | StreamSession = application.admit(head, self.peer)
        return session

    def _refuse_request(self, error: KVError) -> None:
        head, origins = self._head, self.server.application.pages.origins
        request_id = (b"" if head is None else head.request_id) or secrets.token_hex(8).encode()
        method, path = ("-", b"-") if head is None else (head.method, head.path)
        log.debug("%s %r: %s: %s (request %s)", method, path, error.code, error, request_id.decode())
        self._answer_whole(error.status, refusal_bytes(error, head, origins, request_id), request_id)

    def _count_request(self, status: int, request_id: bytes = b"") -> None:
        if self._head is not None:
            request_id = request_id or self._head.request_id
        seconds = time.perf_counter() - self._begun_at
        self.server.application.answered(self._head, self.peer, status, seconds, request_id)

    def _run_stream(self, session: StreamSession) -> None:
        """Let the answer last until either side ends it."""
        stream = Stream(self.socket, self.peer, self.server.application.limits, self._charge.budget)
        session.carry(stream)
        self.server.monitor.add(stream)
        self._count_request(200)
        try:
            stream.run(session.head)
        except Exception as error:
            if not isinstance(error, OSError):
                _failed.report(self.peer, error=True)
            stream.abort()
        finally:
            self.server.monitor.remove(stream)
        self._log_answer(200, stream.written)

    def _read_head(self) -> bytes:
        """Return the request head, empty if the client left; what came after it stays in `_received`.

        Raises `RequestTimeout` if only a part of it came in time, `Overloaded` if the client's budget is full.
        """
        limits: ConnectionLimits = self.server.application.limits
        self.server.shaking_hands.add(self)
        try:
            with gevent.Timeout(limits.handshake_s, False):
                while not (end := head_rules.find_end(self._received)):
                    data = self.socket.recv(_RECEIVE_BYTES)
                    if not data:
                        return b""
                    self._received += data
                    self._charge.set_bytes(len(self._received))
                    if self._charge.budget.is_full:
                        raise Overloaded("too many bytes wait for clients to read them")
                    breathe()
                head = bytes(self._received[:end])
                del self._received[:end]
                return head
        finally:
            self.server.shaking_hands.discard(self)
        if not self._received:
            return b""
        raise RequestTimeout

    def give_up(self) -> None:
        """Wait no longer for the rest of the head."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(gsocket.SHUT_RDWR)

    def _answer_whole(self, status: int, answer: bytes, request_id: bytes = b"") -> None:
        """Send a whole answer, and drop what the client still sends: unread input would reset the connection."""
        self._count_request(status, request_id)
        with gevent.Timeout(self.server.application.limits.linger_s, False):
            self.socket.sendall(answer)
            self.socket.shutdown(gsocket.SHUT_WR)
            while self.socket.recv(_RECEIVE_BYTES):
                breathe()
        self._log_answer(status, len(answer))

    def _log_answer(self, status: int, length: int) -> None:
        """Log an answer that pywsgi did not make, through its access log."""
        head = self._head or Head("-", b"-", b"", b"", "1.1", [])
        self.environ = {
            "REQUEST_METHOD": head.method,
            "RAW_URI": head.target.decode("latin-1"),
            "SERVER_PROTOCOL": f"HTTP/{head.version}",
            "REMOTE_ADDR": self.peer,
        }
        self.headers = HTTPMessage()
        self.status, self.response_headers, self.response_length = str(status), (), length
        self.time_finish = time.monotonic()
        self.log_request()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()
        del self.socket, self.rfile

    # What the libraries call

    def MessageClass(self, *_: object) -> OldMessage:
        """Return the headers as they were parsed here: no limit of a hundred, no second reading of odd bytes."""
        assert self._head is not None
        message = OldMessage()
        message.status = ""
        for name, value in self._head.headers:
            message[name.decode("ascii")] = value.decode("latin-1")
        return message

    def upgrade_websocket(self) -> None:
        """Answer 101: everything was checked before."""
        assert self._head is not None and self._session is not None
        application = self.server.application
        headers = upgrade_headers(self._head, application.pages.origins, self._session.protocol)
        received = bytes(self._received)
        self.websocket = WebSocket(self.socket, self.peer, received, application.limits, self._charge.budget)
        self.environ.update({"wsgi.websocket_version": "13", "wsgi.websocket": self.websocket})
        self.environ[SESSION_KEY] = self._session
        self._count_request(101)
        self.start_response("101 Switching Protocols", headers)

    def run_websocket(self) -> None:
        """Run the application on the connection, and close it properly whatever happens."""
        websocket = self.websocket
        assert websocket is not None
        self.server.monitor.add(websocket)
        code = 1011
        try:
            for _ in self.application(self.environ, lambda *_: None):
                pass
            code = 1000
        except WebSocketError:
            pass  # it sent to a client that had gone
        except Exception:
            _failed.report(self.peer, error=True)
        finally:
            websocket.close_and_wait(code)
            self.server.monitor.remove(websocket)
            self.environ["wsgi.websocket"] = self.websocket = None

    def log_request(self) -> None:
        """Write a line of the access log, without the ticket."""
        self.environ["RAW_URI"] = redact_ticket(self.environ["RAW_URI"])
        self.environ["QUERY_STRING"] = self.environ["RAW_URI"].partition("?")[2]
        PyWSGIHandler.log_request(self)


class GatewayServer(PyWSGIServer):  # type: ignore[misc]
    """The connections of one listener, and those that other processes hand over.

    Attributes:
        shaking_hands: handlers whose request has not arrived.
    """

    def __init__(self, *args: Any, monitor: ConnectionMonitor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.monitor = monitor
        self.shaking_hands: set[GatewayHandler] = set()

    def has_room(self) -> bool:
        """Whether one more connection would be served at once."""
        return bool(self.pool.free_count() > 0)

    def adopt(self, connection: gsocket.socket, address: tuple[str, int] | str, received: bytes) -> None:
        """Serve a connection that another process upgrade_headers and read `received` from. Does not block."""
        handler = self.handler_class(connection, address, self, received)
        self.pool.spawn(handler.handle)


def _peer_of(address: Any) -> str:
    """Return a client's address as text; a Unix socket's has none."""
    if not isinstance(address, tuple):
        return "unix"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
