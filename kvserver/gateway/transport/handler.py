"""Hosting of connections: the request head is read and checked here, then gevent-websocket's handler takes over.

An application says by `admit` who gets a WebSocket, and then runs it as a `Session`; it is a WSGI callable because
gunicorn and gevent-websocket want one.
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

from kvserver.gateway.transport.head import Head, accepted, parse_head, preflight, refused, without_ticket
from kvserver.gateway.transport.send_budget import Debt, Debts
from kvserver.gateway.transport.stream import Stream
from kvserver.gateway.transport.websocket import Keeper, Limits, WebSocket, breathe
from kvserver.http import head_rules
from kvserver.http.origins import Pages
from shards.host.logs import Recurring
from shards.wire.errors import KVError, Overloaded, RequestTimeout

log = logging.getLogger(__name__)
_failed = Recurring(log, logging.ERROR, "serving %s")

SESSION_KEY = "kvserver.session"
"""Where the environ carries the session."""

_RECEIVE_BYTES = 16 << 10


class Session(Protocol):
    """What an application does with one WebSocket.

    Attributes:
        protocol: the subprotocol it chose, empty for none.
    """

    protocol: str

    def run(self, websocket: WebSocket) -> None:
        """Serve the connection until its `receive` returns None. Runs after the 101."""

    def end(self) -> None:
        """The connection is gone, or never came to be."""


@runtime_checkable
class Streaming(Protocol):
    """What an application does with a connection on which HTTP goes on.

    Attributes:
        head: what is written first.
    """

    head: bytes

    def carry(self, stream: Stream) -> None:
        """Say what to write to `stream`, which is about to run."""

    def end(self) -> None:
        """The connection is gone, or never came to be."""


class Application(Protocol):
    """What the handler serves."""

    limits: Limits
    pages: Pages
    debts: Debts

    def admit(self, head: Head, peer: str) -> Session | Streaming:
        """A session for the request, before it is answered. Raises `KVError`, which then is the answer."""

    def leave(self, session: Session | Streaming) -> None:
        """What `admit` gave is over: call its `end`."""

    def answered(self, head: Head | None, peer: str, status: int, seconds: float, request_id: bytes) -> None:
        """A request of `peer` (None: it was none) got `status`, or the begin of a lasting answer, after `seconds`.

        `request_id`: what its answer has, if anything."""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Run the session in `environ`."""


def run_session(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The WSGI side of an application: run the session that `admit` gave, on the WebSocket it got."""
    environ[SESSION_KEY].run(environ["wsgi.websocket"])
    return []


class Handler(WebSocketHandler, PyWSGIHandler):  # type: ignore[misc]
    """One connection: a request head, then its WebSocket or a refusal; it is closed after either."""

    websocket: WebSocket | None  # no value before the upgrade: the base class looks whether it is there

    def __init__(self, connection: gsocket.socket, address: Any, server: Server, received: bytes = b"") -> None:
        """`received`: what has been read from the connection already."""
        super().__init__(connection, address, server, rfile=io.BytesIO())
        self._received = bytearray(received)
        self._limits: Limits = server.application.limits
        self._head: Head | None = None
        self._session: Session | None = None
        self.environ: dict[str, Any] = {}
        self.peer = _peer(address)
        self._debt = Debt(server.keeper.debts.of(self.peer))  # its head

    def handle(self) -> None:
        """Serve the connection to its end. Never raises for what a client does."""
        self.time_start = time.monotonic()  # only how long it took is told
        self._begun_at = time.perf_counter()
        try:
            self._serve()
        except OSError:
            pass  # the client went away
        finally:
            self._debt.owe(0)
            self._hang_up()

    def _serve(self) -> None:
        try:
            raw = self._read_head()
            if not raw:
                return
            self._head = parse_head(raw)
            session = self._admit(self._head)
        except KVError as error:
            self._refuse(error)
            return
        if session is None:
            return
        try:
            self._head = self._head.brief()
            self._debt.owe(self._head.size)
            request_line = raw[: raw.index(b"\r\n") + 2]
            del raw
            if isinstance(session, Streaming):
                self._stream(session)
            else:
                self._session = session
                self.rfile = io.BytesIO(request_line + b"\r\n")
                self.handle_one_request()
        finally:
            if (websocket := getattr(self, "websocket", None)) is not None:  # the client left before the 101
                websocket.discard()
                self.environ["wsgi.websocket"] = self.websocket = None
            self._session = None
            self.server.application.leave(session)

    def _admit(self, head: Head) -> Session | Streaming | None:
        """What serves the request, None if it is answered. Raises `KVError`."""
        application = self.server.application
        refusal = application.pages.refusal(head.method, head.target, head.headers)
        if refusal is not None:
            raise refusal
        if head.method == "OPTIONS":
            self._answer(200, preflight(head, application.pages.origins))
            return None
        session: Session | Streaming = application.admit(head, self.peer)
        return session

    def _refuse(self, error: KVError) -> None:
        head, origins = self._head, self.server.application.pages.origins
        request_id = (b"" if head is None else head.request_id) or secrets.token_hex(8).encode()
        method, path = ("-", b"-") if head is None else (head.method, head.path)
        log.debug("%s %r: %s: %s (request %s)", method, path, error.code, error, request_id.decode())
        self._answer(error.status, refused(error, head, origins, request_id), request_id)

    def _count(self, status: int, request_id: bytes = b"") -> None:
        if self._head is not None:
            request_id = request_id or self._head.request_id
        seconds = time.perf_counter() - self._begun_at
        self.server.application.answered(self._head, self.peer, status, seconds, request_id)

    def _stream(self, session: Streaming) -> None:
        """Let the answer go on until either side ends it."""
        stream = Stream(self.socket, self.peer, self._limits, self._debt.debts)
        session.carry(stream)
        self.server.keeper.add(stream)
        self._count(200)
        try:
            stream.run(session.head)
        except Exception as error:
            if not isinstance(error, OSError):
                _failed.report(self.peer, error=True)
            stream.abort()
        finally:
            self.server.keeper.remove(stream)
        self._log_answer(200, stream.written)

    def _read_head(self) -> bytes:
        """The request head, what came after it stays in `_received`; empty if the client left. Raises `KVError`."""
        self.server.shaking_hands.add(self)
        try:
            with gevent.Timeout(self._limits.handshake_s, False):
                while not (end := head_rules.end(self._received)):
                    data = self.socket.recv(_RECEIVE_BYTES)
                    if not data:
                        return b""
                    self._received += data
                    self._debt.owe(len(self._received))
                    if self._debt.debts.are_full:
                        raise Overloaded("too much waits for clients to take it")
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

    def _answer(self, status: int, answer: bytes, request_id: bytes = b"") -> None:
        """Send a whole answer. Unread input would reset the connection, and the answer with it: drop it first."""
        self._count(status, request_id)
        with gevent.Timeout(self._limits.linger_s, False):
            self.socket.sendall(answer)
            self.socket.shutdown(gsocket.SHUT_WR)
            while self.socket.recv(_RECEIVE_BYTES):
                breathe()
        self._log_answer(status, len(answer))

    def _log_answer(self, status: int, length: int) -> None:
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
        """The headers as they were parsed here: no limit of a hundred, no second reading of odd bytes."""
        assert self._head is not None
        message = OldMessage()
        message.status = ""
        for name, value in self._head.headers:
            message[name.decode("ascii")] = value.decode("latin-1")
        return message

    def upgrade_websocket(self) -> None:
        """Answer 101: everything was checked before."""
        assert self._head is not None and self._session is not None
        headers = accepted(self._head, self.server.application.pages.origins, self._session.protocol)
        self.websocket = WebSocket(self.socket, self.peer, bytes(self._received), self._limits, self._debt.debts)
        self.environ.update({"wsgi.websocket_version": "13", "wsgi.websocket": self.websocket})
        self.environ[SESSION_KEY] = self._session
        self._count(101)
        self.start_response("101 Switching Protocols", headers)

    def run_websocket(self) -> None:
        """Run the application on the connection, whatever happens close it properly."""
        websocket = self.websocket
        assert websocket is not None
        self.server.keeper.add(websocket)
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
            websocket.finish(code)
            self.server.keeper.remove(websocket)
            self.environ["wsgi.websocket"] = self.websocket = None

    def log_request(self) -> None:
        """A line of the access log, without the ticket."""
        self.environ["RAW_URI"] = without_ticket(self.environ["RAW_URI"])
        self.environ["QUERY_STRING"] = self.environ["RAW_URI"].partition("?")[2]
        PyWSGIHandler.log_request(self)


class Server(PyWSGIServer):  # type: ignore[misc]
    """The connections of one listener, and those that other processes hand over.

    Attributes:
        shaking_hands: those whose request has not arrived.
    """

    def __init__(self, *args: Any, keeper: Keeper, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keeper = keeper
        self.shaking_hands: set[Handler] = set()

    def has_room(self) -> bool:
        """Whether one more connection would be served at once."""
        return bool(self.pool.free_count() > 0)

    def adopt(self, connection: gsocket.socket, address: tuple[str, int] | str, received: bytes) -> None:
        """Serve a connection that another process accepted and read `received` from."""
        handler = self.handler_class(connection, address, self, received)
        self.pool.spawn(handler.handle)


def _peer(address: Any) -> str:
    """A client's address as text; a Unix socket's has none."""
    if not isinstance(address, tuple):
        return "unix"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
