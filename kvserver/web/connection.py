"""A client's connection: the order of its requests, its time limits, and its end.

The connection owns what arrived and decides what is taken of it; the parser turns it into requests, and an exchange
answers one. Requests are answered in their order, one at a time; what a client sends ahead waits unparsed. After a
refusal, and after the last request of a connection, nothing that still arrives is taken for a request: it is read and
dropped for a moment, at a limited rate (`DROP_BYTES`), so that the client reads the answer and no reset. There are no
timers: the worker calls `check_deadline` of every connection a few times a second.

A request that has not arrived whole is not in flight; it counts towards the quota of its client's address
(`limits.peer`).
"""

from __future__ import annotations

import asyncio
import enum
from typing import Any, Final

from uvicorn.config import Config

from kvserver.http import handshake
from kvserver.web.context import WorkerContext
from kvserver.web.exchange import Exchange
from kvserver.web.feed_handover import begin_handover
from kvserver.web.flow import ClientFlow
from kvserver.web.limits.load import MOST_DROPPED
from kvserver.web.limits.peer import Peer
from kvserver.web.parsing.head_checks import examine_head
from kvserver.web.parsing.parser import RequestParser, Upgrade
from kvserver.web.parsing.request import IncomingRequest
from kvserver.web.ports import ARRIVAL_S, DROP_BYTES, IDLE_S, LINGER_S, QUIET_S, STALL_S, Answerable
from shards.wire.errors import KVError, Overloaded, RequestTimeout

_BURST: Final = 32
"""Requests of one connection that are answered before others have their turn."""
_TURN_BYTES: Final = 1 << 20
"""Bytes of a body that are taken in before others have their turn: the event loop by itself reads up to 8 MiB of one
connection, which takes 15 ms."""


class ConnectionState(enum.Enum):
    """What a connection does with bytes that arrive."""

    OPEN = enum.auto()
    """They belong to requests."""
    INPUT_ENDED = enum.auto()
    """None arrive; what has arrived is still answered, then the connection is closed."""
    LAST = enum.auto()
    """They are dropped: the client asked for no further request. Its answer closes the connection."""
    DRAINING = enum.auto()
    """They are dropped, until the client has read its last answer."""
    HANDING_OVER = enum.auto()
    """They are kept for the gateway. If none takes the connection, the refusal is the last answer."""
    CLOSED = enum.auto()
    """None arrive, and nothing is written."""


_OPEN: Final = ConnectionState.OPEN
_TAKES_REQUESTS: Final = (ConnectionState.OPEN, ConnectionState.INPUT_ENDED)


class _Arrival:
    """Checks that a body arrives fast enough.

    Attributes:
        request: whose body is awaited; None: the rest of a head is.
    """

    __slots__ = ("_brought", "request")

    def __init__(self, request: IncomingRequest | None) -> None:
        self.request = request
        self._brought = 0  # bytes of the body at the last check

    def check_rate(self, body_bytes: int, upload_rate: int) -> None:
        """Raise `RequestTimeout` if fewer bytes have arrived since the last check than `upload_rate` demands.

        `body_bytes`: that have arrived in all. `upload_rate`: bytes per second.
        """
        brought, self._brought = body_bytes - self._brought, body_bytes
        wanted = round(upload_rate * ARRIVAL_S)
        if brought < wanted:
            raise RequestTimeout(
                f"the body brought {brought} bytes in {ARRIVAL_S:.0f} seconds, at least {wanted} are required"
            )


class HttpConnection(asyncio.Protocol):
    """One connection of a client.

    Attributes:
        app: the ASGI application.
        context: what all connections of the worker share.
        loop: the event loop.
        transport: of the connection, once it is made.
        flow: whether the client reads what is written to the transport.
        peer: the client, and what the connection holds of its quota.
        answering: the request that is being answered.
        deadline: when `check_deadline` acts, by the clock of `context`.
    """

    def __init__(self, config: Config, context: WorkerContext, app_state: dict[str, Any], loop: Any = None) -> None:
        """The arguments are those of uvicorn's protocols; `config` says which application answers."""
        if not config.loaded:
            config.load()
        self.app, self.context = config.loaded_app, context
        self.loop: asyncio.AbstractEventLoop = loop or asyncio.get_event_loop()
        self.transport: Any = None
        self.peer = Peer(context.load, context.proxies)
        self.answering: Answerable | None = None
        self.deadline = 0.0
        self._state = _OPEN
        self._parser = RequestParser(context, self.peer)
        self._input = b""  # what has arrived and is not parsed, from `_at` on
        self._at = 0
        self._is_processing = False
        self._taken = 0  # bytes of bodies since others last had their turn
        self._arrival: _Arrival | None = None  # what `deadline` limits, if a request has arrived in part
        self._feed_input = bytearray()  # what arrives while the connection is handed over

    @property
    def has_pending_input(self) -> bool:
        """Whether anything has arrived that belongs to no answered request, nor to the one that is being answered."""
        return self._at < len(self._input) or self._parser.is_unfinished

    # Callbacks of the transport

    def connection_made(self, transport: Any) -> None:
        """A client has connected. Turn it away if its address has too many connections."""
        self.context.add_connection(self)
        self.transport, self.flow = transport, ClientFlow(transport)
        self.deadline = self.context.clock + IDLE_S
        peername = transport.get_extra_info("peername")
        excess = self.peer.connect(peername) if isinstance(peername, tuple) else 0
        if excess <= 0:
            return
        self.context.counts.overloads += 1
        most = self.context.load.limits.connections
        if excess > most // 8 + 8:  # a refusal holds its descriptor until the client has read it
            self._state = ConnectionState.DRAINING
            transport.abort()
        else:
            self._refuse(Overloaded(f"more than {most} connections are open from this address"))
            self.deadline = self.context.clock + QUIET_S

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed. A request that is being answered runs to its end, all other input is dropped."""
        self.context.remove_connection(self)
        self._state = ConnectionState.CLOSED
        if self.answering is not None:
            self.answering.disconnected = True
        self._drop_pending_input()
        self.peer.disconnect()
        self.flow.resume_writing()

    def eof_received(self) -> bool:
        """The client sends nothing more. It may still read: requests that have arrived whole are answered first."""
        if self._state is _OPEN:
            self._state = ConnectionState.INPUT_ENDED
        if not self._input:
            self._drop_pending_input()
        return self.answering is not None or bool(self._input)

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        """The client has read enough."""
        self.flow.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._state is _OPEN:
            parser, hot_path = self._parser, self.context.hot_path
            if (
                self.answering is None
                # `has_pending_input`, unrolled: every request on the hot path comes through here.
                and not (self._input or parser.receiving is not None or parser.partial_head)
                and not self.flow.write_paused
                and hot_path is not None
                and hot_path.take(self, data)
            ):
                return
            self._input = self._input + data if self._input else data
            if self.answering is None:
                self._process_input()
                if parser.receiving is not None:
                    self._share_turn(len(data))
            else:
                self.flow.pause_reading()
                self._check_pending_input()
        elif self._state is ConnectionState.HANDING_OVER:
            self._feed_input += data
        else:
            self._count_dropped(len(data))

    def _share_turn(self, size: int) -> None:
        """Count `size` bytes of a body that were taken in; after many, read on when others have had their turn."""
        self._taken += size
        if self._taken >= _TURN_BYTES:
            self._taken = 0
            self.flow.pause_reading()
            self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if self._parser.receiving is not None:
            self.flow.resume_reading()

    def _count_dropped(self, size: int) -> None:
        """Count `size` dropped bytes; beyond what may be dropped at a time, read no more until the next check."""
        load, flow = self.context.load, self.flow
        flow.dropped += size
        load.dropped += size
        if flow.dropped >= DROP_BYTES or load.dropped >= MOST_DROPPED:
            flow.pause_reading()

    # Requests as they arrive

    def _process_input(self) -> None:
        """Take in request after request, as long as each is answered at once, and only a few at a time."""
        if self.answering is not None or not self._input or self.transport.is_closing():
            return
        self._is_processing, begun = True, 0
        while self._at < len(self._input) and self._state in _TAKES_REQUESTS:
            if self.answering is not None or begun >= _BURST:
                self._input, self._at = self._input[self._at :], 0
                self.flow.pause_reading()
                if self.answering is None:
                    self.loop.call_soon(self._process_input)
                break
            begun += 1
            try:
                self._receive_request()
            except KVError as failure:
                self._refuse(failure)
        else:
            self._input, self._at = b"", 0
        self._is_processing = False
        parser = self._parser
        if self._input or self.peer.size or parser.receiving is not None or parser.partial_head:
            self._check_pending_input()
        if self.answering is None and not self._input and self._state in _TAKES_REQUESTS:
            self._await_more()

    def _receive_request(self) -> None:
        """Take in one request at most, and begin to answer it if it has arrived whole. Raises `KVError`."""
        parser, data = self._parser, self._input
        if parser.receiving is None:
            try:
                self._at = parser.feed_head(data, self._at)
            except Upgrade as upgrade:
                self._at = upgrade.at
                assert parser.receiving is not None
                if _is_for_gateway(parser.receiving):
                    self._state = ConnectionState.HANDING_OVER
                    self.flow.pause_reading()
                    self._feed_input += data[upgrade.at :]
                    begin_handover(self, parser.take_partial(), parser.message, self._feed_input)
                    return
                parser.ignore_upgrade()
            request = parser.receiving
            if request is not None and examine_head(
                self.context, self.peer, request, parser.message, len(data) - self._at
            ):
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if parser.receiving is not None:
            self._at = parser.feed_body(data, self._at)
        if parser.completed is not None:
            request, parser.completed = parser.completed, None
            self._answer_request(request)

    def _await_more(self) -> None:
        """Wait for more input: everything is taken in, and what is whole is answered."""
        if self._state is ConnectionState.INPUT_ENDED:
            self._drop_pending_input()
            self.transport.close()
            return
        parser, flow = self._parser, self.flow
        if flow.read_paused:
            flow.resume_reading()
        if parser.receiving is None and not parser.partial_head:
            self._arrival = None
            self.deadline = self.context.clock + IDLE_S
        elif self._arrival is None or self._arrival.request is not parser.receiving:
            self._arrival = _Arrival(parser.receiving)
            self.deadline = self.context.clock + ARRIVAL_S

    def _check_pending_input(self) -> None:
        """Count what belongs to no whole request, and refuse it if it exceeds the quota of the address."""
        peer, parser = self.peer, self._parser
        is_unfinished = parser.is_unfinished
        peer.count_pending(is_unfinished, len(self._input) + (parser.size if is_unfinished else 0))
        if not peer.size:
            return
        try:
            peer.check_quota()
        except Overloaded as failure:
            if self.answering is None:
                self._refuse(failure)
            else:  # drop what was sent ahead; the connection ends with the answer
                if self._state is _OPEN:
                    self._state = ConnectionState.INPUT_ENDED
                self._drop_pending_input()

    def _drop_pending_input(self) -> None:
        self._input, self._at = b"", 0
        self._parser.drop_partial()
        if self.peer.size:
            self.peer.count_pending(False, 0)

    # Answers

    def _answer_request(self, request: IncomingRequest) -> None:
        """Begin to answer a request that has arrived whole."""
        self._arrival = None
        self.answering = exchange = Exchange(self, request)
        exchange.charge.quota = self.peer.quota
        if request.body:
            exchange.charge.hold_bytes(len(request.body))
        if not request.keep_alive:
            self._state = ConnectionState.LAST
        self.flow.unsent = 0
        exchange.start()

    def _refuse(self, failure: KVError) -> None:
        """Answer the request that arrives, or is expected, with `failure`; take no other."""
        self._state = ConnectionState.DRAINING
        request = self._parser.take_partial()
        request.error, request.keep_alive = failure, False
        self.answering = exchange = Exchange(self, request)
        self.flow.unsent = 0
        exchange.start()

    def finish_read(self) -> None:
        """The hot path has answered a request at once: wait for the next one."""
        if self.peer.is_proxy:
            self.peer.forget_client()
        self.deadline = self.context.clock + IDLE_S

    def finish_write(self) -> None:
        """The hot path has answered a write: take the next request, or wait for it."""
        self.answering = None
        if self.peer.is_proxy:
            self.peer.forget_client()
        if self._input:
            self.loop.call_soon(self._process_input)
        elif self._state is _OPEN:
            self.deadline = self.context.clock + IDLE_S
        else:
            self._await_more()

    def finish_exchange(self, keep_alive: bool) -> None:
        """The whole answer of a request is written: take the next one, or unless `keep_alive` end the connection."""
        self.answering = None
        self.peer.forget_client()
        if self.transport.is_closing():
            return
        if not keep_alive:
            self._finish_connection()
        elif self._is_processing:
            return  # `_process_input` takes the next one
        elif self._input:
            self.loop.call_soon(self._process_input)
        else:
            self._await_more()

    def _finish_connection(self) -> None:
        """The last answer is written: close, but let a client that still sends read it first."""
        is_last, self._state = self._state is ConnectionState.LAST, ConnectionState.DRAINING
        self._drop_pending_input()
        if is_last or not self.transport.can_write_eof():
            self.deadline = self.context.clock + STALL_S
            self.transport.close()
            return
        self.flow.resume_reading()
        self.transport.write_eof()
        self.deadline = self.context.clock + (QUIET_S if self.context.load.stopping else LINGER_S)

    # Time

    def check_deadline(self, now: float) -> None:
        """Called a few times a second: end what takes too long."""
        parser = self._parser
        if self.flow.dropped:
            self.flow.dropped = 0
            self.flow.resume_reading()
        if self.answering is not None or self.transport.is_closing():
            if self.flow.makes_progress():
                self.deadline = now + STALL_S
            elif now >= self.deadline:
                self.flow.reset()
        elif now < self.deadline:
            return
        elif parser.receiving is not None:
            self._arrival = self._arrival or _Arrival(parser.receiving)
            try:
                self._arrival.check_rate(parser.message.body_bytes, self.context.load.limits.upload_rate)
            except RequestTimeout as failure:
                self._refuse(failure)
            else:
                self.deadline = now + ARRIVAL_S
        elif parser.partial_head:
            self._refuse(RequestTimeout(f"the head did not arrive within {ARRIVAL_S:.0f} seconds"))
        else:
            self.transport.close()

    def shutdown(self) -> None:
        """The worker stops: close the connection soon unless the head of a request has arrived. Its answer will say
        `Connection: close`."""
        if self.answering is None and not self._input and self._parser.receiving is None:
            self.deadline = min(self.deadline, self.context.clock + QUIET_S)


def _is_for_gateway(request: IncomingRequest) -> bool:
    return handshake.is_for_gateway(request.method, request.path, request.version, request.headers)
