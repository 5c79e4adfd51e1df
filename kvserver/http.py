"""A connection: uvicorn's HTTP/1.1 protocol over httptools, with our guards.

What is refused here never reaches the application: targets and headers that are malformed or too long, bodies that are
too large (before they are read, and before `100 Continue`), requests that arrive too slowly, and requests beyond what
the server works on at a time. After a refusal, and after the last request of a connection, nothing that still arrives
is taken for a request: it is read and dropped for a moment, so that the client sees the answer and not a reset.

Requests are answered in their order, one at a time. There are no timers: the worker calls `check` of every connection
a few times a second.
"""

from __future__ import annotations

import logging
import socket
import struct
import types
from collections import deque
from collections.abc import Coroutine, Generator
from time import perf_counter
from typing import Any, Final

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kvserver import handoff, handshake, target
from kvserver.answers import REQUEST_ID, Headers, lines
from kvserver.exchange import ROUTE, SCRIPT, Exchange
from kvserver.traffic import MOST_BYTES, Traffic
from shards.errors import (
    BadRequest,
    HeadersTooLarge,
    KVError,
    Overloaded,
    RequestTimeout,
    UriTooLong,
    ValueTooLarge,
)

log = logging.getLogger("kvserver.http")

REQUEST_LINE: Final = 8 << 10
HEADERS: Final = 64 << 10
ARRIVAL_S: Final = 10.0
"""How long a request may take to arrive."""
IDLE_S: Final = 75.0
"""How long a connection may wait for its next request."""
QUIET_S: Final = 1.0
"""The same while the worker stops: a client that is about to send one has sent it by then."""
LINGER_S: Final = 5.0
"""How long what a client still sends after its last answer is read and dropped."""
STALL_S: Final = 30.0
"""How long a client may take nothing of its answer."""

_OVERHEAD: Final = 1 << 20
"""Bytes of chunk headers and trailers that may come without any body between them."""


class Refused(Exception):
    """Raised in a callback of the parser to stop it; `Protocol.failure` says why."""


class Protocol(HttpToolsProtocol):
    """One connection of a client.

    Attributes:
        receiving: the request that arrives, None between requests.
        answering: the one being answered; `waiting` are whole ones behind it.
        over: nothing that still arrives is a request.
    """

    def __init__(self, config: Any, server_state: Traffic, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.traffic = server_state
        self.receiving: Exchange | None = None
        self.answering: Exchange | None = None
        self.waiting: deque[Exchange] = deque()
        self.over = False
        self.failure: KVError | None = None
        self.deadline = 0.0
        self._upgrading = False
        self._ignored_upgrade: bytes | None = None
        self._handing_over: tuple[Exchange, bytearray] | None = None
        self._unsent = 0  # bytes the client had not taken when last checked

    # The transport's side

    def connection_made(self, transport: Any) -> None:
        """A client connected."""
        self.connections.add(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        peer = transport.get_extra_info("peername")
        self.client = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else None
        self.deadline = self.traffic.clock + IDLE_S

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left, or we closed: what runs goes on to its end, the rest is dropped."""
        self.connections.discard(self)
        self.over = True
        if self.answering is not None:
            self.answering.disconnected = True
        self._drop_unanswered()
        self.flow.resume_writing()
        self.parser = None  # type: ignore[assignment]  # it refers to us

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends nothing more. It may still read: what came whole is answered first."""
        if self.receiving is not None:
            self.receiving.drop()
            self.receiving = None
        self.over = True
        return self.answering is not None or bool(self.waiting) or self._handing_over is not None

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self.over:
            if self._handing_over is not None:
                self._handing_over[1].extend(data)
            return
        before = self.receiving
        progress = 0 if before is None else len(before.body)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse_rest(error)
        else:
            if before is not None and before is self.receiving and len(before.body) == progress:
                self._count_overhead(len(data))

    def _refuse_rest(self, error: Exception) -> None:
        """The parser stopped: answer the request it stopped in, unless it stopped behind the last one."""
        failure, self.failure = self.failure, None
        if failure is None:
            if self.over:
                return
            if isinstance(error, httptools.HttpParserCallbackError):
                log.error("a request could not be taken", exc_info=error)
                failure = KVError()
            elif isinstance(error, httptools.HttpParserInvalidMethodError):
                failure = BadRequest()
            else:
                failure = BadRequest(f"malformed request: {error}")
        self.refuse(failure)

    def refuse(self, failure: KVError) -> None:
        """Answer the request that arrives, or is expected, with `failure`; the connection takes no other."""
        exchange = self.receiving or Exchange(self)
        self.receiving = None
        self.over = True
        exchange.error, exchange.keep_alive = failure, False
        exchange.path = exchange.path or self.url
        self._enqueue(exchange)

    def _count_overhead(self, size: int) -> None:
        """Bound what is neither body nor a header the parser has told us of: it keeps such bytes."""
        self._overhead += size
        in_head = not self._head_done
        if self._overhead > (HEADERS + REQUEST_LINE if in_head else _OVERHEAD):
            self.refuse(HeadersTooLarge() if in_head else ValueTooLarge())

    # The parser's side

    def on_message_begin(self) -> None:
        """First byte of a request."""
        if self.over:
            raise Refused
        self.receiving = Exchange(self)
        self.url = b""
        self._header_bytes = self._overhead = self._hosts = self._encodings = 0
        self._head_done = self._expects = self._upgrading = False
        self._length: int | None = None
        self.deadline = self.traffic.clock + ARRIVAL_S
        if self._ignored_upgrade is not None:
            self.receiving.headers.append((b"upgrade", self._ignored_upgrade))
            self._ignored_upgrade = None

    def on_url(self, url: bytes) -> None:
        """A part of the request target."""
        self.url += url
        if len(self.url) > REQUEST_LINE - 64 and self._request_line() > REQUEST_LINE:
            self._fail(UriTooLong())

    def _request_line(self) -> int:
        return len(self.parser.get_method()) + len(self.url) + len(b"  HTTP/1.1")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is dropped."""
        self._header_bytes += len(name) + len(value) + 4
        if self._header_bytes > HEADERS:
            self._fail(HeadersTooLarge())
        if self._head_done:
            return
        name = name.lower()
        assert self.receiving is not None
        self.receiving.headers.append((name, value))
        note = _NOTED.get(name)
        if note is not None:
            note(self, value.strip())

    def _note_host(self, value: bytes) -> None:
        self._hosts += 1

    def _note_expect(self, value: bytes) -> None:
        self._expects = value.lower() == b"100-continue"

    def _note_length(self, value: bytes) -> None:
        if not value.isdigit():
            self._fail(BadRequest("Content-Length: not a number"))
        self._length = int(value)  # the parser has seen to it that it is the only one

    def _note_encoding(self, value: bytes) -> None:
        self._encodings += 1
        if value.lower() != b"chunked" or self._encodings > 1:
            self._fail(BadRequest("Transfer-Encoding: only chunked is known"))

    def _note_accept(self, value: bytes) -> None:
        assert self.receiving is not None
        self.receiving.accept += value

    def _note_origin(self, value: bytes) -> None:
        assert self.receiving is not None
        self.receiving.origin = value

    def _note_request_id(self, value: bytes) -> None:
        assert self.receiving is not None
        if REQUEST_ID.fullmatch(value):
            self.receiving.request_id = value

    def _note_service_worker(self, value: bytes) -> None:
        assert self.receiving is not None
        self.receiving.script = value.lower() == b"script"

    def on_headers_complete(self) -> None:
        """The head is whole. What asks for an upgrade is looked at when the parser lets go of it."""
        self._head_done = True
        self._overhead = 0
        if self.parser.should_upgrade():
            self._upgrading = True
        self._take_head()

    def _take_head(self) -> None:
        """Guards, then the scope for the application. Raises `Refused`."""
        exchange, parser = self.receiving, self.parser
        assert exchange is not None
        exchange.method = parser.get_method().decode()
        exchange.version = version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._fail(BadRequest("HTTP version: only 1.1 and 1.0 are known"))
        if self._hosts != 1 and (version == "1.1" or self._hosts):
            self._fail(BadRequest("Host header: exactly one is needed"))
        if self._encodings and (version == "1.0" or self._length is not None):
            self._fail(BadRequest("Transfer-Encoding: not with Content-Length or HTTP/1.0"))
        try:
            path, query = target.split(self.url)
        except BadRequest as error:
            self._fail(error)
        exchange.path = path
        exchange.keep_alive = parser.should_keep_alive()
        exchange.scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "method": exchange.method,
            "scheme": "http",
            "path": path.decode(),  # not decoded further: whoever routes by it would be wrong
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": exchange.headers,
            "client": self.client,
            "server": None,
        }
        if exchange.script:
            exchange.scope[SCRIPT] = True
        if not self._upgrading:
            self._admit(exchange)

    def _admit(self, exchange: Exchange) -> None:
        """Limits. A request that waits behind others is counted when its turn comes."""
        has_body = bool(self._length) or self._encodings > 0
        if self.answering is None and not self._enter(exchange) and has_body:
            self._fail(Overloaded())
        if not has_body:
            return
        length = self._length or 0
        if length > self.traffic.max_value:
            self._fail(ValueTooLarge())
        if self.traffic.bytes_held + length > MOST_BYTES:
            self.traffic.counts.overloads += 1
            self._fail(Overloaded())
        exchange.hold(length)
        if self._expects and exchange.version == "1.1" and self.answering is None:
            self._continue()

    def _continue(self) -> None:
        self._expects = False
        self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _enter(self, exchange: Exchange) -> bool:
        exchange.counted = self.traffic.enter()
        if not exchange.counted:
            exchange.error = Overloaded()
        return exchange.counted

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        exchange = self.receiving
        assert exchange is not None
        self._overhead = 0
        if not exchange.body:
            exchange.body = body
        else:
            if type(exchange.body) is bytes:
                exchange.body = bytearray(exchange.body)
            exchange.body += body
        if self._length is None:
            exchange.hold(len(body))
            if len(exchange.body) > self.traffic.max_value:
                self._fail(ValueTooLarge())
            if self.traffic.bytes_held > MOST_BYTES:
                self.traffic.counts.overloads += 1
                self._fail(Overloaded())

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._upgrading:
            return
        exchange, self.receiving = self.receiving, None
        assert exchange is not None
        if not exchange.keep_alive:
            exchange.last = self.over = True
        self._enqueue(exchange)

    def _fail(self, failure: KVError) -> None:
        self.failure = failure
        raise Refused

    # Answering

    def _enqueue(self, exchange: Exchange) -> None:
        if self.answering is None:
            self._start(exchange)
        else:
            self.waiting.append(exchange)
            self.flow.pause_reading()

    def _start(self, exchange: Exchange) -> None:
        self.answering = exchange
        self._unsent = 0
        if exchange.error is None and not exchange.counted:
            self._enter(exchange)
        if exchange.error is not None:
            exchange.refuse(exchange.error)
            return
        self._run(exchange.run())

    def _run(self, work: Coroutine[Any, None, None]) -> None:
        """Run `work` up to its first wait at once; only what waits becomes a task. (A GET never does.)

        Python 3.12 has this as eager tasks. Code before the first wait has no `asyncio.current_task`.
        """
        try:
            awaited = work.send(None)
        except StopIteration:
            return
        task = self.loop.create_task(_rest(work, awaited))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def answered(self, exchange: Exchange) -> None:
        """`exchange` has its whole answer."""
        self.answering = None
        transport = self.transport
        if transport.is_closing():
            return
        if not exchange.keep_alive:
            self._end(exchange)
        elif self.waiting:
            self.loop.call_soon(self._next)
        elif self._handing_over is not None:
            self._hand_over()
        elif self.over:  # the client has closed its side
            transport.close()
        else:
            self.flow.resume_reading()
            limit = IDLE_S if self.receiving is None else ARRIVAL_S
            self.deadline = self.traffic.clock + limit
            if self.receiving is not None and self._head_done and self._expects:
                self._continue()

    def _next(self) -> None:
        if self.waiting and self.answering is None and not self.transport.is_closing():
            self._start(self.waiting.popleft())

    def _end(self, exchange: Exchange) -> None:
        """The last answer is written: close, but let a client that still sends read it first."""
        self.over = True
        self._drop_unanswered()
        if exchange.last or not self.transport.can_write_eof():
            self.deadline = self.traffic.clock + STALL_S
            self.transport.close()
            return
        self.flow.resume_reading()
        self.transport.write_eof()
        self.deadline = self.traffic.clock + (QUIET_S if self.traffic.stopping else LINGER_S)

    def _drop_unanswered(self) -> None:
        if self.receiving is not None:
            self.receiving.drop()
            self.receiving = None
        for exchange in self.waiting:
            exchange.drop()
        self.waiting.clear()

    # Time

    @property
    def idle(self) -> bool:
        """Whether there is no request, not even a part of one."""
        return self.answering is None and self.receiving is None and not self.waiting

    def reset(self) -> None:
        """Break the connection so that the client cannot take what it has for the whole answer."""
        if not self.transport.is_closing():
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def idle_but_for(self, exchange: Exchange) -> bool:
        """Whether `exchange` is the only request there is."""
        return self.answering is exchange and self.receiving is None and not self.waiting

    def check(self, now: float) -> None:
        """Called a few times a second: end what takes too long."""
        transport = self.transport
        if self.answering is not None or transport.is_closing():
            unsent = transport.get_write_buffer_size()
            if not unsent or unsent != self._unsent:
                self._unsent = unsent
                self.deadline = now + STALL_S
            elif now >= self.deadline:
                transport.abort()
        elif now < self.deadline:
            return
        elif self.receiving is not None:
            self.refuse(RequestTimeout())
        else:
            transport.close()

    def shutdown(self) -> None:
        """The worker stops: answers say `Connection: close`; an idle connection is closed soon, if nothing arrives."""
        if self.idle:
            self.deadline = min(self.deadline, self.traffic.clock + QUIET_S)

    # Feed connections

    def _upgrade(self, rest: bytes) -> None:
        """The parser lets go of a request that asks for another protocol: hand it over, or serve it as it is."""
        exchange = self.receiving
        assert exchange is not None
        if (
            exchange.method == "GET"
            and exchange.path in handshake.FEEDS
            and handshake.refusal(exchange.version, exchange.headers) is None
        ):
            self.receiving = None
            self.over = True
            self.flow.pause_reading()
            self._handing_over = (exchange, bytearray(rest))
            if self.answering is None and not self.waiting:
                self._hand_over()
        elif exchange.method == "CONNECT":
            self.refuse(BadRequest("this is no proxy"))
        else:
            self._ignore_upgrade(exchange, rest)

    def _ignore_upgrade(self, exchange: Exchange, rest: bytes) -> None:
        """Parse the request again without its Upgrade header: the parser skips the body of what it takes for one.

        The body would be taken for the next request. (curl --http2 and Java's client offer h2c with every request.)
        """
        self._ignored_upgrade = b", ".join(value for name, value in exchange.headers if name == b"upgrade")
        headers: Headers = [header for header in exchange.headers if header[0] != b"upgrade"]
        self.receiving = None
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(self._raw_head(exchange, headers) + rest)

    def _raw_head(self, exchange: Exchange, headers: Headers) -> bytes:
        request_line = b"%b %b HTTP/%b\r\n" % (exchange.method.encode(), self.url, exchange.version.encode())
        return request_line + lines(headers) + b"\r\n"

    def _hand_over(self) -> None:
        assert self._handing_over is not None
        exchange, rest = self._handing_over
        self.answering = exchange
        exchange.scope[ROUTE] = exchange.path.decode()
        head = self._raw_head(exchange, exchange.headers)
        self._run(self._hand_over_soon(exchange, head, rest))

    async def _hand_over_soon(self, exchange: Exchange, head: bytes, rest: bytearray) -> None:
        """When earlier answers have left, give the connection to a gateway; else 503."""
        try:
            await handoff.until_written(self.transport)
            if not self.transport.is_closing():
                await handoff.hand_over(self.loop, self.traffic.board, self.transport, self.client, head, rest)
        except KVError as error:
            exchange.keep_alive = False
            self._handing_over = None
            if not self.transport.is_closing():
                exchange.refuse(error)
            return
        self.answering = None
        self.traffic.counts.add(exchange.method, exchange.path.decode(), 101, perf_counter() - exchange.begun_at)
        self.transport.abort()  # closes our descriptor of the socket; the gateway's lives on


@types.coroutine
def _rest(work: Coroutine[Any, None, None], awaited: Any) -> Generator[Any, None, None]:
    """What is left of `work`, which waits for `awaited`."""
    while True:
        try:
            yield awaited
        except BaseException as error:
            resume, argument = work.throw, error
        else:
            resume, argument = work.send, None  # type: ignore[assignment]
        try:
            awaited = resume(argument)
        except StopIteration:
            return


_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}
_NOTED: Final = {
    b"host": Protocol._note_host,
    b"expect": Protocol._note_expect,
    b"content-length": Protocol._note_length,
    b"transfer-encoding": Protocol._note_encoding,
    b"accept": Protocol._note_accept,
    b"origin": Protocol._note_origin,
    b"x-request-id": Protocol._note_request_id,
    b"service-worker": Protocol._note_service_worker,
}
"""Headers the connection itself looks at."""
