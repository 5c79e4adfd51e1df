"""HTTP for `AsyncClient`: aiohttp's connections, with knowledge of each request whether all of it was sent."""

from __future__ import annotations

import asyncio
import inspect
import os
import ssl as tls
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

try:
    import aiohttp
except ImportError as error:  # pragma: no cover - the test of the slim distribution sees it, in another process
    raise ImportError("AsyncClient needs aiohttp: pip install aiohttp yarl") from error
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from kvserver.client.core.calls import Answer, Attempt, Call, Lost
from kvserver.client.errors import NotAnswered
from kvserver.client.transport.address import checked_token, untrusted
from kvserver.client.transport.servers import Servers
from kvserver.client.transport.time_limit import time_limit

PIECE: Final = 1 << 16
"""Most bytes of one read."""
_BROKEN: Final = (aiohttp.ClientError, asyncio.TimeoutError, OSError)

AnyToken = Callable[[], "str | Awaitable[str]"]


class _Sending:
    """How far a request has come."""

    def __init__(self, has_body: bool) -> None:
        self.written = not has_body
        self.protocol: ResponseHandler | None = None

    @property
    def is_over(self) -> bool:
        """Whether all of the request may be with the kernel."""
        return self.protocol is not None and self.written and not self.protocol.writing_paused


_sending: ContextVar[_Sending] = ContextVar("_sending")


class _Connector(aiohttp.TCPConnector):
    """Connections that stop to write while anything waits for the kernel, so that this can be seen."""

    async def connect(self, *arguments: Any, **named: Any) -> Any:
        """Return a connection for a request."""
        connection = await super().connect(*arguments, **named)
        transport = connection.transport
        if transport is not None:  # a plain one pauses above its limit, one of TLS at its limit: at 0 it never goes on
            transport.set_write_buffer_limits(high=1 if transport.get_extra_info("ssl_object") else 0, low=0)
        _sending.get().protocol = connection.protocol
        return connection


class _Body(aiohttp.Payload):
    """The body of a request, in one piece, which notes that it was written."""

    def __init__(self, value: bytes, sending: _Sending) -> None:
        super().__init__(value, content_type="application/octet-stream")
        self._size = len(value)
        self._sending = sending

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text."""
        return bytes(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the body; no part of it waits outside of the kernel afterwards."""
        view = memoryview(self._value)
        for start in range(0, len(view), PIECE):
            await writer.write(view[start : start + PIECE])
        self._sending.written = True


class AsyncStream:
    """The body of an answer that has no end yet."""

    def __init__(self, response: aiohttp.ClientResponse, leave: Callable[[], None]) -> None:
        self._response = response
        self.leave = leave
        """Makes the client use another server from now on, if there is one."""
        self.headers = {name.lower(): value for name, value in response.headers.items()}

    async def read(self, timeout: float | None) -> bytes:
        """Return what has come, at least one byte; b"" at the end. Waits for at most `timeout` seconds.

        Raises `NotAnswered`, after which nothing more can be read: if nothing comes, or the connection breaks.
        """
        try:
            async with time_limit(timeout):
                return await self._response.content.read(PIECE)
        except _BROKEN as error:
            self.close()
            raise NotAnswered(_why(error)) from None

    def close(self) -> None:
        """Close the connection."""
        self._response.close()


class Session:
    """Connections to the servers of one store, for the tasks of one event loop."""

    def __init__(
        self,
        servers: Servers,
        token: str | AnyToken | None,
        connections: int,
        idle: float,
        ssl: tls.SSLContext | None,
    ) -> None:
        self.servers = servers
        self._token_of = token if callable(token) else None
        self._token = token if isinstance(token, str) else None
        self._connections, self._idle, self._ssl = connections, idle, ssl
        self._loop: asyncio.AbstractEventLoop | None = None
        self._http: aiohttp.ClientSession
        self._streams: aiohttp.ClientSession
        self._closed = False

    async def close(self) -> None:
        """Close all connections. Later requests fail with `RuntimeError`."""
        self._closed = True
        if self._loop is not None:
            self._loop = None
            await self._http.close()
            await self._streams.close()

    async def renew_token(self) -> bool:
        """Ask for the token again; return whether there is a function to ask."""
        if self._token_of is None:
            return False
        found = self._token_of()
        self._token = checked_token(await found if inspect.isawaitable(found) else found)
        return True

    async def attempt(self, attempt: Attempt, timeout: float) -> Answer | Lost:
        """Send a request once, to the server that is used now, and read its answer, in `timeout` seconds in all."""
        sending = _Sending(bool(attempt.call.body))
        _sending.set(sending)
        server = self.servers.current
        limit = aiohttp.ClientTimeout(total=timeout, sock_connect=self.servers.connect_s(timeout))
        outcome: Answer | Lost
        try:
            response = await self._open(server, attempt, sending, limit, stream=False)
            async with response:
                outcome = _answer_of(response, await response.read())
        except _BROKEN as error:
            outcome = self._lost(server, error, sending.is_over)
        self.servers.note(server, outcome)
        return outcome

    async def open_stream(self, call: Call[Any], timeout: float) -> AsyncStream | Answer | Lost:
        """Send a request once and return its body as a stream, if the status is 200; else as `attempt`.

        Its connection is not one of the pool's. `timeout`: seconds for the head of the answer.
        """
        sending = _Sending(bool(call.body))
        _sending.set(sending)
        server = self.servers.current
        limit = aiohttp.ClientTimeout(total=None, sock_connect=self.servers.connect_s(timeout))
        outcome: Answer | Lost
        try:
            async with time_limit(timeout):
                response = await self._open(server, Attempt(call), sending, limit, stream=True)
            if response.status == 200:
                return AsyncStream(response, partial(self.servers.leave, server))
            async with response, time_limit(timeout):
                outcome = _answer_of(response, await response.read())
        except _BROKEN as error:
            outcome = self._lost(server, error, sending.is_over)
        self.servers.note(server, outcome)
        return outcome

    def _lost(self, server: int, error: BaseException, sent: bool) -> Lost:
        why = _why(error) if sent else f"{self.servers.all[server].address.url}: {_why(error)}"
        return Lost(why, sent, time.monotonic())

    async def _open(
        self, server: int, attempt: Attempt, sending: _Sending, timeout: aiohttp.ClientTimeout, stream: bool
    ) -> aiohttp.ClientResponse:
        self._connect()
        call, to = attempt.call, self.servers.all[server]
        headers = {"User-Agent": "kvserver-client", "Accept-Encoding": "identity", **call.headers}
        if self._token is None and self._token_of is not None:
            await self.renew_token()
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        if attempt.idempotency_key is not None:
            headers["Idempotency-Key"] = attempt.idempotency_key
        return await (self._streams if stream else self._http).request(
            call.method,
            URL(to.address.url + call.target, encoded=True),
            data=_Body(call.body, sending) if call.body else None,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
            proxy=to.proxy,
        )

    def _connect(self) -> None:
        """Make the sessions at the first request, in its event loop."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._loop is not None:
            raise RuntimeError("an AsyncClient belongs to the event loop that it was first used in; make one for each")
        self._loop = loop
        self._http = self._make(limit=self._connections, keepalive_timeout=self._idle)
        self._streams = self._make(limit=0, force_close=True)

    def _make(self, **options: Any) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=_Connector(ssl=self._ssl or True, **options),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("Content-Type",),
        )
        session._retry_connection = False  # aiohttp would repeat a PUT or DELETE after losing a used connection
        return session


def _answer_of(response: aiohttp.ClientResponse, body: bytes) -> Answer:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status, headers, body, time.monotonic())


def _why(error: BaseException) -> str:
    """Return the words of an error, the operating system's where there are some."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        error = error.certificate_error
    if isinstance(error, tls.SSLCertVerificationError):
        return untrusted(error)
    if isinstance(error, OSError) and error.errno and not isinstance(error, (tls.SSLError, aiohttp.ClientSSLError)):
        return os.strerror(error.errno) if error.errno > 0 else error.strerror or "no such host"  # below 0: of a name
    return str(error) or ("timed out" if isinstance(error, asyncio.TimeoutError) else type(error).__name__)
