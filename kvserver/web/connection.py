"""A connection: uvicorn's HTTP/1.1 protocol, with our own way from bytes to requests (`intake`) and to answers.

Requests are taken in and answered in their order, one at a time; what a client sends ahead waits as it came. After a
refusal, and after the last request of a connection, nothing that still arrives is taken for a request: it is read and
dropped for a moment, but no faster than others can bear (`DROP_BYTES`), so that the client sees the answer and not a
reset. There are no timers: the worker calls `check`
of every connection a few times a second.

What has not arrived whole has no place among the requests in flight; it counts towards the share of its client's
address (`shares`).
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import types
from collections.abc import Coroutine, Generator
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kvserver.http import handshake, proxies, send_queue
from kvserver.http.responses import Headers
from kvserver.http.scope import ROUTE
from kvserver.web import handoff
from kvserver.web.address_quotas import Stake
from kvserver.web.exchange import Exchange
from kvserver.web.parser import Intake, Upgrade
from kvserver.web.traffic import MOST_DROPPED, Traffic
from shards.wire.errors import BadRequest, KVError, Overloaded, RequestTimeout

if TYPE_CHECKING:
    from kvserver.web.hotpath import Write

ARRIVAL_S: Final = 10.0
"""How long a head may take to arrive, and over how long a body must bring what `--min-upload-rate` wants."""
IDLE_S: Final = 75.0
"""How long a connection may wait for its next request."""
QUIET_S: Final = 1.0
"""The same while the worker stops: a client that is about to send one has sent it by then."""
LINGER_S: Final = 5.0
"""How long what a client still sends after its last answer is read and dropped."""
DROP_BYTES: Final = 8 << 20
"""Bytes of a connection that are read and dropped between two checks; the rest waits in the kernel, or at its end."""
STALL_S: Final = 30.0
"""How long a client may take nothing of its answer."""
_BURST: Final = 32
"""Requests of one connection that are answered before others have their turn."""


_EVENTS_LATER: Final[Headers] = [
    (b"content-type", handshake.EVENT_STREAM),
    (b"cache-control", b"no-store, no-transform"),
]
"""Of an answer to EventSource where there is no gateway."""


class Protocol(HttpToolsProtocol):
    """One connection of a client.

    Attributes:
        client: address and port of who asks; a proxy's, if it is trusted, changes from request to request.
        answering: the request being answered.
        over: nothing that still arrives is a request.
        stake: what it holds of its address's share.
    """

    def __init__(self, config: Any, server_state: Traffic, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.traffic = server_state
        self.answering: Exchange | Write | None = None
        self.over = False
        self.deadline = 0.0
        self.stake = Stake(server_state)
        self._intake = Intake(self)
        self._handing_over: tuple[Exchange, bytearray] | None = None
        self._unsent = 0  # bytes the client had not taken when last checked
        self._dropped = 0  # bytes since it was last checked
        self._broken = False  # the descriptor is closed, or about to be
        self._eof = False  # the client sends nothing more
        self._unparsed = b""  # what came behind a request that is not answered yet
        self._feeding = False
        self._burst = 0  # requests begun since the loop last turned
        self._peer: tuple[str, int] | None = None
        self._is_proxy = False
        self._awaited: Exchange | bool | None = None  # the body, or the rest of a head, to which the deadline belongs
        self._brought = 0  # of that body, when its rate was last looked at

    @property
    def idle(self) -> bool:
        """Whether there is no request, not even a part of one."""
        return self.answering is None and not self._unparsed and not self._intake.unfinished

    def idle_but_for(self, exchange: Exchange) -> bool:
        """Whether `exchange` is the only request there is."""
        return self.answering is exchange and not (
            self._unparsed or self._handing_over is not None or (self._feeding and self._intake.is_followed)
        )

    # The transport's side

    def connection_made(self, transport: Any) -> None:
        """A client connected."""
        self.traffic.connected(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        self.deadline = self.traffic.clock + IDLE_S
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.client = self._peer = (str(peer[0]), int(peer[1]))
            self._take_place(self._peer[0])
        else:
            self.client = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left, or we closed: what runs goes on to its end, the rest is dropped."""
        self.traffic.disconnected(self)
        self.over = True
        if self.answering is not None:
            self.answering.disconnected = True
        self._drop_unanswered()
        self.stake.disconnect()
        self.flow.resume_writing()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends nothing more. It may still read: what came whole is answered first."""
        self._eof = True
        if not self._unparsed:
            self._drop_unanswered()
        return self.answering is not None or bool(self._unparsed) or self._handing_over is not None

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._handing_over is not None:
            self._handing_over[1].extend(data)
        elif self.over:
            self._drop(len(data))
        else:
            if (
                self.answering is None
                and self._intake.receiving is None
                and not (self._intake.head or self._unparsed or self.flow.write_paused)
                and self.traffic.hot_path is not None
                and self.traffic.hot_path.take(self, data)
            ):
                return
            self._burst = 0
            self._feed(self._unparsed + data if self._unparsed else data)

    def _drop(self, size: int) -> None:
        """Count bytes that nobody wants; beyond what may be dropped at a time, read no more until the next check."""
        self._dropped += size
        self.traffic.dropped += size
        if self._dropped >= DROP_BYTES or self.traffic.dropped >= MOST_DROPPED:
            self.flow.pause_reading()

    # Requests as they arrive

    def _feed(self, data: bytes) -> None:
        """Take in `data`, request by request, as long as each is answered at once, and only a few at a time."""
        at, self._feeding, self._unparsed = 0, True, b""
        while at < len(data) and not self.over:
            if self.answering is not None or self._burst >= _BURST:
                self._unparsed = data[at:] if at else data
                self.flow.pause_reading()
                if self.answering is None:
                    self.loop.call_soon(self._next)
                break
            self._burst += 1
            try:
                at = self._take_in(data, at)
            except KVError as failure:
                self._refuse(failure)
        self._feeding = False
        if self._unparsed or self._intake.unfinished or self.stake.size:
            self._recount()
        if self.answering is None and not self._unparsed and not self.over:
            self._await_more()

    def _take_in(self, data: bytes, at: int) -> int:
        """One request at most; returns where the rest begins. Raises `KVError`."""
        try:
            return self._intake.feed(data, at)
        except Upgrade as upgrade:
            if self._is_for_gateway():
                self._hand_over(self._intake.take(), bytearray(data[upgrade.at :]))
                return len(data)
            self._intake.ignore_upgrade(len(data) - upgrade.at)
            return upgrade.at

    def _next(self) -> None:
        """Go on with what came long ago."""
        if self._unparsed and self.answering is None and not self.transport.is_closing():
            self._burst = 0
            self._feed(self._unparsed)

    def _await_more(self) -> None:
        """All that came is taken in, and what is whole is answered."""
        if self._eof:
            self._drop_unanswered()
            self.transport.close()
            return
        self.flow.resume_reading()
        awaited = self._intake.receiving or (True if self._intake.head else None)
        if awaited is None:
            self.deadline = self.traffic.clock + IDLE_S
        elif awaited is not self._awaited:
            self.deadline = self.traffic.clock + ARRIVAL_S
            self._brought = 0
        self._awaited = awaited

    def _refuse(self, failure: KVError) -> None:
        """Answer the request that arrives, or is expected, with `failure`; the connection takes no other."""
        self.over = True
        exchange = self._intake.take()
        exchange.error, exchange.keep_alive = failure, False
        self._start(exchange)

    def arrived(self, exchange: Exchange) -> None:
        """A request has arrived whole."""
        self._awaited = None
        exchange.share = self.stake.share
        if exchange.body:
            exchange.hold(len(exchange.body))
        if not exchange.keep_alive:
            exchange.last = self.over = True
        self._start(exchange)

    # Shares

    def _take_place(self, host: str) -> None:
        """Count the connection in the share of its address, and turn it away if that is used up."""
        traffic = self.traffic
        self._is_proxy = traffic.proxies.trusts(host)
        if self._is_proxy:
            return
        excess = self.stake.connect(proxies.group(host))
        if excess <= 0:
            return
        traffic.counts.overloads += 1
        most = traffic.limits.connections
        if excess > most // 8 + 8:  # those that are told why take a descriptor meanwhile
            self.over = True
            self.transport.abort()
        else:
            self._refuse(Overloaded(f"more than {most} connections are open from this address"))
            self.deadline = traffic.clock + QUIET_S

    def asked_for(self, forwarded: list[bytes]) -> None:
        """The request that arrives has these values of X-Forwarded-For: a trusted proxy says who asks."""
        if self._is_proxy and self._peer is not None:
            trusted = self.traffic.proxies
            host = trusted.client(self._peer[0], forwarded)
            self.stake.move("" if trusted.trusts(host) else proxies.group(host))
            self.client = (host, 0) if host != self._peer[0] else self._peer

    def _recount(self) -> None:
        """See what there is by now that is no request yet. What is more than the share of an address is refused."""
        unfinished = self._intake.unfinished
        self.stake.count(unfinished, len(self._unparsed) + (self._intake.size if unfinished else 0))
        if not self.stake.size:
            return
        try:
            self.stake.check()
        except Overloaded as failure:
            if self.answering is None:
                self._refuse(failure)
            else:  # what was sent ahead is dropped; the connection ends with the answer
                self._eof = True
                self._drop_unanswered()

    # Answering

    def _start(self, exchange: Exchange) -> None:
        self.answering = exchange
        self._unsent = 0
        if exchange.error is None:
            exchange.judge_again()
        if exchange.error is None:
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

    def note(self, method: str, route: str, path: bytes, status: int, begun_at: float, request_id: bytes = b"") -> None:
        """Count an answer, and tell of it if every request is asked for. `request_id`: what it has, if anything."""
        traffic, seconds = self.traffic, perf_counter() - begun_at
        traffic.counts.add(method, route, status, seconds)
        if traffic.access_log is not None:
            client = self.client[0] if self.client else ""
            traffic.access_log(client, method, path, status, seconds, request_id)

    def answered_plainly(self) -> None:
        """What `Write` has answered was all there was; go on."""
        self.answering = None
        if self._unparsed or self._eof:
            self._go_on()
        else:
            self.deadline = self.traffic.clock + IDLE_S

    def answered(self, exchange: Exchange) -> None:
        """`exchange` has its whole answer."""
        self.answering = None
        if self._is_proxy:
            self.client = self._peer
        if self.transport.is_closing():
            return
        if not exchange.keep_alive:
            self._end(exchange)
        elif not self._feeding:
            self._go_on()

    def _go_on(self) -> None:
        if self._unparsed:
            self.loop.call_soon(self._next)
        else:
            self._await_more()

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
        self._intake.drop()
        if self.stake.size:
            self.stake.count(False, 0)

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
        if self._dropped:
            self._dropped = 0
            self.flow.resume_reading()
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
            self._check_upload(now)
        elif self._intake.head:
            self._refuse(RequestTimeout(f"the head did not arrive within {ARRIVAL_S:.0f} seconds"))
        else:
            transport.close()

    def _check_upload(self, now: float) -> None:
        """Refuse a body that arrives too slowly; another gets as long again."""
        brought, self._brought = self._intake.body_bytes - self._brought, self._intake.body_bytes
        wanted = round(self.traffic.limits.upload_rate * ARRIVAL_S)
        if brought < wanted:
            why = f"the body brought {brought} bytes in {ARRIVAL_S:.0f} seconds, at least {wanted} are wanted"
            self._refuse(RequestTimeout(why))
        else:
            self.deadline = now + ARRIVAL_S

    def _count_unsent(self) -> int:
        """Bytes the client has not taken, those in the kernel too; 0 if the kernel has all of them."""
        unsent: int = self.transport.get_write_buffer_size()
        if unsent and not self._broken:
            unsent += send_queue.unsent(self.transport.get_extra_info("socket").fileno())
        return unsent

    def shutdown(self) -> None:
        """The worker stops: answers say `Connection: close`; a connection that is idle, or whose next request has not
        even a whole head, is closed soon."""
        if self.answering is None and not self._unparsed and self._intake.receiving is None:
            self.deadline = min(self.deadline, self.traffic.clock + QUIET_S)

    # Feed connections

    def _is_for_gateway(self) -> bool:
        """Whether a request that asks for another protocol, or for a feed, can be handed over. Raises `BadRequest`."""
        exchange = self._intake.receiving
        assert exchange is not None
        if exchange.method == "CONNECT":
            raise BadRequest("this is no proxy")
        is_wal = exchange.path == handshake.WAL and handshake.refusal(exchange.version, exchange.headers) is None
        return exchange.method == "GET" and (is_wal or exchange.path == handshake.FEED)

    def _hand_over(self, exchange: Exchange, rest: bytearray) -> None:
        self.over = True
        self.flow.pause_reading()
        self._handing_over = (exchange, rest)
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
                    self.loop,
                    self.traffic.board,
                    self.transport,
                    self.client,
                    head,
                    rest,
                    lambda: self.traffic.stopping,
                )
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
