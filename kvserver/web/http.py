"""A connection: uvicorn's HTTP/1.1 protocol, with our own way from bytes to requests (`intake`) and to answers.

Requests are answered in their order, one at a time. After a refusal, and after the last request of a connection,
nothing that still arrives is taken for a request: it is read and dropped for a moment, so that the client sees the
answer and not a reset. There are no timers: the worker calls `check` of every connection a few times a second.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import types
from collections import deque
from collections.abc import Coroutine, Generator
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kvserver.web import handoff, handshake, sendqueue
from kvserver.web.answers import Headers
from kvserver.web.exchange import ROUTE, Exchange
from kvserver.web.intake import Intake, Upgrade
from kvserver.web.traffic import Traffic
from shards.errors import BadRequest, KVError, RequestTimeout

if TYPE_CHECKING:
    from kvserver.web.hotpath import Write

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
MOST_WAITING: Final = 64
"""Requests of one connection that may wait behind another."""

_PIECE: Final = 8 << 10
"""Bytes that are parsed at a time where requests begin."""
_BURST: Final = 32
"""Requests of one connection that are answered before others have their turn."""


_EVENTS_LATER: Final[Headers] = [
    (b"content-type", handshake.EVENT_STREAM), (b"cache-control", b"no-store, no-transform")
]  # fmt: skip
"""Of an answer to EventSource where there is no gateway."""


class Protocol(HttpToolsProtocol):
    """One connection of a client.

    Attributes:
        answering: the request being answered; `waiting` are whole ones behind it.
        over: nothing that still arrives is a request.
    """

    def __init__(self, config: Any, server_state: Traffic, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.traffic = server_state
        self.answering: Exchange | Write | None = None
        self.waiting: deque[Exchange] = deque()
        self.over = False
        self.deadline = 0.0
        self._intake = Intake(self)
        self._handing_over: tuple[Exchange, bytearray] | None = None
        self._unsent = 0  # bytes the client had not taken when last checked
        self._broken = False  # the descriptor is closed, or about to be
        self._unparsed = b""  # what waits until fewer requests do
        self._burst = 0  # requests begun since the loop last turned

    @property
    def is_next(self) -> bool:
        """Whether what arrives has nothing before it."""
        return self.answering is None and not self.waiting

    @property
    def idle(self) -> bool:
        """Whether there is no request, not even a part of one."""
        return self.is_next and self._intake.receiving is None

    def idle_but_for(self, exchange: Exchange) -> bool:
        """Whether `exchange` is the only request there is."""
        return (
            self.answering is exchange
            and not self.waiting
            and not self._unparsed
            and self._intake.receiving is None
            and self._handing_over is None
        )

    # The transport's side

    def connection_made(self, transport: Any) -> None:
        """A client connected."""
        self.traffic.connected(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        peer = transport.get_extra_info("peername")
        self.client = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else None
        self.deadline = self.traffic.clock + IDLE_S

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left, or we closed: what runs goes on to its end, the rest is dropped."""
        self.traffic.disconnected(self)
        self.over = True
        if self.answering is not None:
            self.answering.disconnected = True
        self._drop_unanswered()
        self.flow.resume_writing()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends nothing more. It may still read: what came whole is answered first."""
        self.over = True
        if self._intake.receiving is not None:
            self._intake.take().drop()
        return not self.is_next or self._handing_over is not None

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._handing_over is not None:
            self._handing_over[1].extend(data)
        elif not self.over:
            if (
                self.answering is None
                and self._intake.receiving is None
                and not (self.waiting or self._unparsed or self.flow.write_paused)
                and self.traffic.hot_path is not None
                and self.traffic.hot_path.take(self, data)
            ):
                return
            self._burst = 0
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        """Parse. Of many small requests that came together only a few are taken at a time: each takes memory."""
        intake = self._intake
        while data and not self.over:
            if len(self.waiting) >= MOST_WAITING:
                self._unparsed = data
                return
            piece, data = data, b""
            if len(piece) > _PIECE and (intake.receiving is None or not intake.head_done):
                piece, data = piece[:_PIECE], piece[_PIECE:]
            try:
                failure = intake.feed(piece)
            except Upgrade as upgrade:
                data = self._upgrade(upgrade.rest + data)
            else:
                if failure is not None:
                    self._refuse(failure)

    def _refuse(self, failure: KVError) -> None:
        """Answer the request that arrives, or is expected, with `failure`; the connection takes no other."""
        self.over = True
        exchange = self._intake.take()
        exchange.error, exchange.keep_alive = failure, False
        self._enqueue(exchange)

    def begun(self) -> None:
        """A request begins to arrive."""
        self.deadline = self.traffic.clock + ARRIVAL_S

    def arrived(self, exchange: Exchange) -> None:
        """A request has arrived whole."""
        if not exchange.keep_alive:
            exchange.last = self.over = True
        self._enqueue(exchange)

    # Answering

    def _enqueue(self, exchange: Exchange) -> None:
        if self.is_next and self._burst < _BURST:
            self._burst += 1
            self._start(exchange)
            return
        self.waiting.append(exchange)
        self.flow.pause_reading()
        if self.answering is None and len(self.waiting) == 1:
            self.loop.call_soon(self._next)

    def _start(self, exchange: Exchange) -> None:
        self.answering = exchange
        self._unsent = 0
        if exchange.error is None:
            exchange.judge_again()
        if exchange.error is None and not exchange.counted:
            exchange.enter()
        if exchange.error is not None:
            exchange.refuse(exchange.error)
            return
        self.run(exchange.run())

    def run(self, work: Coroutine[Any, None, None]) -> None:
        """Run `work` up to its first wait at once. (A GET never waits.) Keep the task that goes on with it."""
        task = _start_eagerly(self.loop, work)
        if task is not None:
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def note(self, method: str, route: str, path: bytes, status: int, begun_at: float) -> None:
        """Count an answer, and tell of it if every request is asked for."""
        traffic, seconds = self.traffic, perf_counter() - begun_at
        traffic.counts.add(method, route, status, seconds)
        if traffic.access_log is not None:
            traffic.access_log(self.client[0] if self.client else "", method, path, status, seconds)

    def answered_plainly(self) -> None:
        """What `Write` has answered was all there was; go on."""
        self.answering = None
        if (
            self.waiting or self._unparsed or self.over or self._handing_over is not None
            or self._intake.receiving is not None
        ):  # fmt: skip
            self._go_on()
        else:
            self.deadline = self.traffic.clock + IDLE_S

    def answered(self, exchange: Exchange) -> None:
        """`exchange` has its whole answer."""
        self.answering = None
        transport = self.transport
        if transport.is_closing():
            return
        if not exchange.keep_alive:
            self._end(exchange)
        else:
            self._go_on()

    def _go_on(self) -> None:
        transport = self.transport
        if self.waiting or self._unparsed:
            self.loop.call_soon(self._next)
        elif self._handing_over is not None:
            self._hand_over()
        elif self.over:  # the client has closed its side
            transport.close()
        else:
            self.flow.resume_reading()
            receiving = self._intake.receiving is not None
            self.deadline = self.traffic.clock + (ARRIVAL_S if receiving else IDLE_S)
            if receiving:
                self._intake.go_on()

    def _next(self) -> None:
        """Go on with what came long ago."""
        if self.answering is not None or self.transport.is_closing():
            return
        if self.waiting:
            self._start(self.waiting.popleft())
        elif self._unparsed:
            data, self._unparsed = self._unparsed, b""
            self._burst = 0
            self._feed(data)
            if self.is_next and not self._unparsed:
                self.flow.resume_reading()

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
        self._unparsed = b""
        if self._intake.receiving is not None:
            self._intake.take().drop()
        for exchange in self.waiting:
            exchange.drop()
        self.waiting.clear()

    def reset(self) -> None:
        """Break the connection so that the client cannot take what it has for the whole answer."""
        if not self._broken and self._has_socket():
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._broken = True
        self.transport.abort()

    def cut_off(self) -> None:
        """The worker ends: break off an answer that is not whole, drop the connection otherwise."""
        if self.answering is not None or self.transport.get_write_buffer_size():
            self.reset()
        else:
            self.transport.abort()

    def _has_socket(self) -> bool:
        """Whether the descriptor is surely still ours: a closing transport keeps it until everything is written."""
        return not self.transport.is_closing() or self.transport.get_write_buffer_size() > 0

    # Time

    def check(self, now: float) -> None:
        """Called a few times a second: end what takes too long."""
        transport = self.transport
        if self.answering is not None or transport.is_closing():
            unsent = self._count_unsent()
            if not unsent or unsent != self._unsent:
                self._unsent = unsent
                self.deadline = now + STALL_S
            elif now >= self.deadline:
                self.reset()
        elif now < self.deadline:
            return
        elif self._intake.receiving is not None:
            self._refuse(RequestTimeout())
        else:
            transport.close()

    def _count_unsent(self) -> int:
        """Bytes the client has not taken, those in the kernel too; 0 if the kernel has all of them."""
        unsent: int = self.transport.get_write_buffer_size()
        if unsent and not self._broken:
            unsent += sendqueue.unsent(self.transport.get_extra_info("socket").fileno())
        return unsent

    def shutdown(self) -> None:
        """The worker stops: answers say `Connection: close`; a connection that is idle, or whose next request has not
        even a whole head, is closed soon."""
        in_head = self._intake.receiving is not None and not self._intake.head_done
        if self.idle or (self.is_next and in_head):
            self.deadline = min(self.deadline, self.traffic.clock + QUIET_S)

    # Feed connections

    def _upgrade(self, rest: bytes) -> bytes:
        """The parser lets go of a request that asks for another protocol, or for a feed: hand it over, or return what
        to parse."""
        exchange = self._intake.receiving
        assert exchange is not None
        is_wal = exchange.path == handshake.WAL and handshake.refusal(exchange.version, exchange.headers) is None
        if exchange.method == "GET" and (is_wal or exchange.path == handshake.FEED):
            self.over = True
            self.flow.pause_reading()
            self._handing_over = (self._intake.take(), bytearray(rest))
            if self.is_next:
                self._hand_over()
            return b""
        if exchange.method == "CONNECT":
            self._refuse(BadRequest("this is no proxy"))
            return b""
        return self._intake.ignore_upgrade(rest)

    def _hand_over(self) -> None:
        assert self._handing_over is not None
        exchange, rest = self._handing_over
        self.answering = exchange
        exchange.scope[ROUTE] = exchange.path.decode()
        head = self._intake.raw_head(exchange, exchange.headers)
        self.run(self._hand_over_soon(exchange, head, rest))

    async def _hand_over_soon(self, exchange: Exchange, head: bytes, rest: bytearray) -> None:
        """When earlier answers have left, give the connection to a gateway; else 503, but to EventSource, which would
        never come again, an answer after which it does."""
        try:
            await handoff.until_written(self.transport)
            if not self.transport.is_closing():
                await handoff.hand_over(
                    self.loop, self.traffic.board, self.transport, self.client, head, rest,
                    lambda: self.traffic.stopping,
                )  # fmt: skip
        except KVError as error:
            exchange.keep_alive = False
            self._handing_over = None
            if self.transport.is_closing():
                return
            if isinstance(error, handoff.NoGateway) and handshake.is_event_stream(exchange.headers):
                exchange.answer(200, _EVENTS_LATER, handshake.RETRY)
            else:
                exchange.refuse(error)
            return
        self.answering = None  # the gateway answers, counts, and tells of it
        self.transport.abort()  # closes our descriptor of the socket; the gateway's lives on


if sys.version_info >= (3, 12):

    def _start_eagerly(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, None, None]) -> asyncio.Task[None] | None:
        """Run `work` up to its first wait.

        Returns the task that goes on with it, or None if it has ended. Raises what `work` raises before its first wait.
        """
        task = asyncio.Task(work, loop=loop, eager_start=True)
        if not task.done():
            return task
        task.result()
        return None

else:

    def _start_eagerly(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, None, None]) -> asyncio.Task[None] | None:
        """Do what an eager task of Python 3.12 does. Code before the first wait has no `asyncio.current_task`."""
        try:
            awaited = work.send(None)
        except StopIteration:
            return None
        return loop.create_task(_finish(work, awaited))

    async def _finish(work: Coroutine[Any, None, None], awaited: Any) -> None:
        """Run the rest of `work`, which waits for `awaited`."""
        await _resume(work, awaited)

    @types.coroutine
    def _resume(work: Coroutine[Any, None, None], awaited: Any) -> Generator[Any, None, None]:
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
