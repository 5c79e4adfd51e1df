"""HTTP for `Client`: a pool of urllib3's connections, which knows of each request whether all of it was sent."""

from __future__ import annotations

import contextlib
import io
import os
import re
import socket
import ssl as tls
import threading
import time
from collections.abc import Callable
from functools import partial
from http.client import BadStatusLine, HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any, Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from kvserver.client.core.calls import Answer, Attempt, Call, Lost
from kvserver.client.errors import ForeignAnswer, NotAnswered
from kvserver.client.transport.address import checked_token, untrusted
from kvserver.client.transport.servers import Server, Servers

PIECE: Final = 1 << 16
"""Most bytes of one read."""
_BROKEN: Final = (HTTPError, HTTPException, OSError)

SyncToken = Callable[[], str]


class _TimedBytes(io.RawIOBase):
    """What comes from a socket, until it is time: a socket's own timeout begins anew with each byte.

    `ends_at` is by the monotonic clock; None leaves the timeout of the socket as it is.
    """

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, ends_at: float) -> None:
        self._raw, self._sock = raw, sock
        self.ends_at: float | None = ends_at if ends_at < float("inf") else None

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read what has come. Raises `TimeoutError` when it is time, and the errors of the socket."""
        if self.ends_at is not None:
            left = self.ends_at - time.monotonic()
            if left <= 0:
                raise TimeoutError("the answer did not end in time")
            self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        """Close the file, not its connection."""
        self._raw.close()
        super().close()


class _Progress(threading.local):
    """How far this thread's request has come. A request, its sending and its answer are of one thread."""

    sent = False
    sock: socket.socket | None = None
    ends_at = float("inf")
    """When the answer must be there, by the monotonic clock."""
    bytes: _TimedBytes | None = None


_progress = _Progress()


class _Lines:
    """The file of a response while its head is read: remembers the last line."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.last: bytes | None = None

    def readline(self, *arguments: Any) -> bytes:
        """Return the next line."""
        self.last = self._file.readline(*arguments)
        return self.last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _WholeHead(HTTPResponse):
    """A response whose head must be there to its end, and in time.

    http.client takes the end of a connection for that of a head.
    """

    def __init__(self, sock: socket.socket, *arguments: Any, **named: Any) -> None:
        super().__init__(sock, *arguments, **named)
        _progress.bytes = _TimedBytes(self.fp.detach(), sock, _progress.ends_at)
        self.fp = io.BufferedReader(_progress.bytes)

    def begin(self) -> None:
        """Read the head. Raises `BadStatusLine` for half of one."""
        file = self.fp
        lines = _Lines(file)
        self.fp = lines  # type: ignore[assignment]
        try:
            super().begin()
        finally:
            if self.fp is lines:  # type: ignore[comparison-overlap]
                self.fp = file
        if lines.last is not None and lines.last not in (b"\r\n", b"\n"):
            raise BadStatusLine("the connection ended within the head of the answer")


if TYPE_CHECKING:
    _Base = HTTPConnection
else:
    _Base = object


class _Watched(_Base):
    """A connection that knows whether all of a request went to the kernel, and that is not used after a long rest.

    urllib3 swallows a broken pipe while it sends, since the server may have answered before: only this tells the two.
    """

    response_class = _WholeHead

    def __init__(self, *arguments: Any, idle_s: float = 30.0, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._idle_s, self._used_at = idle_s, 0.0

    def request(self, *arguments: Any, **named: Any) -> None:
        """Send a request, and note that all of it was sent."""
        try:
            super().request(*arguments, **named)
        finally:
            _progress.sock = self.sock
        _progress.sent = True
        self._used_at = time.monotonic()

    @property
    def is_connected(self) -> bool:
        """Whether the connection can take a request: it is open, and did not rest for too long."""
        if self._used_at and time.monotonic() - self._used_at > self._idle_s:
            return False
        return super().is_connected


class _PlainConnection(_Watched, HTTPConnection):
    pass


class _TlsConnection(_Watched, HTTPSConnection):
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class Stream:
    """The body of an answer that has no end yet."""

    def __init__(
        self, response: BaseHTTPResponse, sock: socket.socket | None, leave: Callable[[], None] = lambda: None
    ) -> None:
        self._response, self._sock = response, sock
        self.leave = leave
        """Makes the client use another server from now on, if there is one."""
        self.headers = {name.lower(): value for name, value in response.headers.items()}

    def read(self, timeout: float | None) -> bytes:
        """Return what has come, at least one byte; b"" at the end. Waits for at most `timeout` seconds.

        Raises `NotAnswered`, after which nothing more can be read: if nothing comes, or the connection breaks.
        """
        try:
            if self._sock is not None and self._sock.fileno() >= 0:
                self._sock.settimeout(timeout)
            return self._response.read1(PIECE, decode_content=False)
        except _BROKEN as error:
            raise NotAnswered(_why(error)) from None
        except (AttributeError, ValueError) as error:  # closed in the meantime by another thread
            raise NotAnswered(f"closed: {error}") from None

    def close(self) -> None:
        """Close the connection. A thread that waits in `read` ends with an error or b""."""
        with contextlib.suppress(OSError):
            if self._sock is not None:
                self._sock.shutdown(socket.SHUT_RDWR)
        self._response.close()


class Pool:
    """Connections to the servers of one store, shared by threads. A child of `fork` makes its own."""

    def __init__(
        self,
        servers: Servers,
        token: str | SyncToken | None,
        connections: int = 32,
        idle: float = 30.0,
        ssl: tls.SSLContext | None = None,
    ) -> None:
        self.servers = servers
        self._token_of = token if callable(token) else None
        self._token = token if isinstance(token, str) else None
        self._connections, self._idle, self._ssl = connections, idle, ssl
        self._lock, self._lock_pid = threading.Lock(), os.getpid()
        self._pid = -1
        self._closed = False
        self._clear: list[Callable[[], None]] = []
        self._send: list[Callable[..., BaseHTTPResponse]] = []
        self._send_stream: list[Callable[..., BaseHTTPResponse]] = []

    def close(self) -> None:
        """Close all connections. Later requests fail with `RuntimeError`."""
        self._closed = True
        if self._pid == os.getpid():
            for clear in self._clear:
                clear()
        self._pid = -1

    def renew_token(self) -> bool:
        """Ask for the token again; return whether there is a function to ask."""
        if self._token_of is None:
            return False
        self._token = checked_token(self._token_of())
        return True

    def attempt(self, attempt: Attempt, timeout: float, most_bytes: int | None = None) -> Answer | Lost:
        """Send a request once, to the server that is used now, and read its answer, in `timeout` seconds in all.

        Raises `ForeignAnswer` for an answer of more than `most_bytes`.
        """
        _progress.sent, _progress.sock, _progress.ends_at = False, None, time.monotonic() + timeout
        server = self.servers.current
        outcome: Answer | Lost
        try:
            outcome = self._read_answer(self._open(server, attempt, timeout, stream=False), most_bytes)
        except _BROKEN as error:
            outcome = self._lost(server, error)
        self.servers.note(server, outcome)
        return outcome

    def open_stream(self, call: Call[Any], timeout: float, most_bytes: int | None = None) -> Stream | Answer | Lost:
        """Send a request once and return its body as a stream, if the status is 200; else as `attempt`.

        Its connection is not one of the pool's. `timeout`: seconds for the head of the answer.
        """
        _progress.sent, _progress.sock, _progress.ends_at = False, None, time.monotonic() + timeout
        server = self.servers.current
        outcome: Answer | Lost
        try:
            response = self._open(server, Attempt(call), timeout, stream=True)
            if response.status == 200:
                if _progress.bytes is not None:
                    _progress.bytes.ends_at = None
                return Stream(response, _progress.sock, partial(self.servers.leave, server))
            outcome = self._read_answer(response, most_bytes)
        except _BROKEN as error:
            outcome = self._lost(server, error)
        self.servers.note(server, outcome)
        return outcome

    def _lost(self, server: int, error: BaseException) -> Lost:
        why = _why(error) if _progress.sent else f"{self.servers.all[server].address.url}: {_why(error)}"
        return Lost(why, _progress.sent, time.monotonic())

    def _open(self, server: int, attempt: Attempt, timeout: float, stream: bool) -> BaseHTTPResponse:
        if self._pid != os.getpid():
            self._connect()
        call = attempt.call
        headers = {"User-Agent": "kvserver-client", "Accept-Encoding": "identity", **call.headers}
        if self._token is None and self._token_of is not None:
            self.renew_token()
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        if attempt.idempotency_key is not None:
            headers["Idempotency-Key"] = attempt.idempotency_key
        return (self._send_stream if stream else self._send)[server](
            call.method,
            call.target,
            body=call.body or None,
            headers=headers,
            timeout=urllib3.Timeout(total=timeout, connect=self.servers.connect_s(timeout)),
            pool_timeout=timeout,
        )

    def _read_answer(self, response: BaseHTTPResponse, most_bytes: int | None) -> Answer:
        """Read an answer to its end; the connection goes back to the pool. Raises `OSError` and urllib3's errors."""
        found, size = [], 0
        try:
            while piece := response.read1(PIECE, decode_content=False):
                found.append(piece)
                size += len(piece)
                if most_bytes is not None and size > most_bytes:
                    raise ForeignAnswer(f"its answer has more than {most_bytes >> 20} MiB")
                if time.monotonic() >= _progress.ends_at:
                    raise TimeoutError("the answer did not end in time")
        except BaseException:
            response.close()
            raise
        response.release_conn()
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, headers, b"".join(found), time.monotonic())

    def _connect(self) -> None:
        """Make the pools of this process."""
        if self._lock_pid != os.getpid():  # another thread may have held the lock when this process was forked
            self._lock, self._lock_pid = threading.Lock(), os.getpid()
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed")
            if self._pid == os.getpid():
                return
            pools = [self._make_pool(server, block=True) for server in self.servers.all]
            streams = [self._make_pool(server, block=False) for server in self.servers.all]
            self._send, self._send_stream = [send for send, _ in pools], [send for send, _ in streams]
            self._clear = [clear for _, clear in (*pools, *streams)]
            self._pid = os.getpid()

    def _make_pool(self, server: Server, block: bool) -> tuple[Callable[..., BaseHTTPResponse], Callable[[], None]]:
        address = server.address
        options: dict[str, Any] = {"maxsize": self._connections, "block": block}
        if address.scheme == "https":
            options["ssl_context"] = self._ssl or tls.create_default_context()
        fixed: dict[str, Any] = {"retries": False, "redirect": False, "preload_content": False, "decode_content": False}
        if server.proxy is None:
            cls = _TlsPool if address.scheme == "https" else _PlainPool
            pool = cls(address.host, address.port, **options)
            pool.conn_kw["idle_s"] = self._idle

            def send(method: str, target: str, timeout: urllib3.Timeout, **named: Any) -> BaseHTTPResponse:
                return pool.urlopen(method, address.path + target, timeout=timeout, **named, **fixed)

            return send, pool.close
        manager = urllib3.ProxyManager(server.proxy, **options)
        manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}
        manager.connection_from_url(address.url).conn_kw["idle_s"] = self._idle

        def send_by_proxy(method: str, target: str, timeout: urllib3.Timeout, **named: Any) -> BaseHTTPResponse:
            return manager.urlopen(method, address.url + target, timeout=timeout, **named, **fixed)

        return send_by_proxy, manager.clear


def _why(error: BaseException) -> str:
    """Return the words of an error, the operating system's where there are some."""
    cause = error.__cause__ or error.__context__
    for each in (cause, *error.args):
        if isinstance(each, tls.SSLCertVerificationError):
            return untrusted(each)
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return re.sub(r"^_\w+\([^)]*\): ", "", str(error)) or type(error).__name__
