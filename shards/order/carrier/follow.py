"""The messages of the order, as one process of the shard follows them.

They come by what the servers republish; what does not come is fetched by direct gets of any replica. What the shard is
handed has no gaps, and was held by most servers before. Nothing is kept: the shard says where it is.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from nats.aio.msg import Msg

from shards.order import link, stream
from shards.order.carrier.engine import WATCH_S, Engine
from shards.order.carrier.frames import send_frame
from shards.order.carrier.tidings import Namesake
from shards.order.order import (
    WHAT_HELPS,
    Identity,
    Message,
    OrderError,
    OrderLost,
    OrderTrimmed,
    OrderUnreachable,
)

_LOOKS: Final = 3
"""Looks in a row that must find the end lost: an engine that has just started may not show it yet."""
_OPEN_S: Final = 5.0
_GAP_S: Final = 0.03  # for which a message may be overtaken before it is fetched
_HOLE_FETCHES: Final = 60
"""Fetches in a row that must skip a message before it is given up: each is answered by a replica that chance chooses,
and one whose files are damaged may lack what the others have."""
_FETCH_MESSAGES: Final = 512
_FETCH_BYTES: Final = 4 << 20
_MOST_UNREAD: Final = 8 << 20
"""Bytes that the shard has not read, above which messages are not handed over but fetched later."""

log = logging.getLogger("order")


class Follow:
    """The order as one process of the shard follows it: from its connection to the end of that."""

    def __init__(
        self, engine: Engine, options: argparse.Namespace, namesake: Namesake, writer: asyncio.StreamWriter
    ) -> None:
        self._engine, self._options, self._namesake, self._writer = engine, options, namesake, writer
        self._follower: stream.Follower | None = None
        self._identity: Identity | None = None
        self._behind = asyncio.Event()
        self._inbox = engine.client.new_inbox()
        self._looks = self._skips = 0

    async def run(self, frames: AsyncIterator[link.ToChild]) -> None:
        """Serve the shard until it is gone."""
        async with (
            self._engine.subscribed({f"{self._inbox}.*": self._on_answer, f"{stream.OUT}.>": self._on_message}),
            asyncio.TaskGroup() as tasks,
        ):
            helpers = [tasks.create_task(self._fetch_missing()), tasks.create_task(self._watch())]
            try:
                async for frame in frames:
                    await self._handle(frame)
            finally:
                for helper in helpers:
                    helper.cancel()

    # From the shard.

    async def _handle(self, frame: link.ToChild) -> None:
        client, node = self._engine.client, self._options.node
        if isinstance(frame, link.Open):
            await self._open(frame)
        elif isinstance(frame, link.Propose):
            if not client.is_connected:
                self._send(link.NotTaken(frame.number))
            else:
                await self._engine.publish(f"{stream.LOG}.{node}", frame.payload, f"{self._inbox}.{frame.number}")
        elif isinstance(frame, link.Hint):
            self._see(frame.last)
        elif isinstance(frame, link.Trim):
            await self._engine.publish(stream.PURGE, msgspec.json.encode({"seq": frame.below}), f"{self._inbox}.0")

    async def _open(self, frame: link.Open) -> None:
        known = Identity(frame.name, frame.created_ns) if frame.name is not None else None
        try:
            facts = await self._wait_for_stream(frame.after, known)
            facts.check_config()
            await self._engine.check_flushing(facts.servers)
            await self._namesake.check()
        except OrderError as error:
            log.warning("the order is not open: %s", error)
            self._send(link.Failed.of(error))
            return
        self._identity = facts.identity
        self._follower = stream.Follower(facts.last if frame.after == link.AT_THE_END else frame.after)
        self._looks = self._skips = 0
        self._send(link.Opened(*facts.identity, facts.first, facts.last))
        self._see(facts.last)

    async def _wait_for_stream(self, after: int, known: Identity | None) -> stream.StreamFacts:
        """Look until the stream is there as it must be. Raises `OrderError` if it is not soon."""
        problem: OrderError = OrderUnreachable("the engine does not answer")
        end = asyncio.get_running_loop().time() + _OPEN_S
        while asyncio.get_running_loop().time() < end:
            try:
                facts = await self._engine.look()
                facts.check_place(after, known)
                return facts
            except stream.NoStream as error:
                problem = (
                    OrderLost(f"{error}; {WHAT_HELPS}")
                    if known
                    else OrderUnreachable(f"{error}: `kvserver cluster init`")
                )
            except stream.EngineError as error:
                problem = OrderUnreachable(str(error))
            except OrderTrimmed:
                raise
            except OrderError as error:
                problem = error
            await asyncio.sleep(WATCH_S / 4)
        raise problem

    # From the servers.

    async def _on_answer(self, message: Msg) -> None:
        if stream.is_refusal(message.headers, message.data):
            number = int(message.subject.rpartition(".")[2])
            if number:
                self._send(link.NotTaken(number))

    async def _on_message(self, message: Msg) -> None:
        read = stream.read_message(message.headers, message.data)
        if read is None or self._follower is None:
            return
        if self._writer.transport.get_write_buffer_size() > _MOST_UNREAD:
            self._see(read.sequence)
        else:
            self._take(read)

    def _take(self, message: Message) -> None:
        """Hand over what can be handed over, now that this message is here."""
        if self._follower is None:
            return
        try:
            for ready in self._follower.add(message):
                self._send(link.Took(*ready))
        except OrderLost as error:
            self._fail(error)
            return
        if self._follower.is_behind:
            self._behind.set()

    def _see(self, last: int) -> None:
        if self._follower is not None:
            self._follower.see(last)
            if self._follower.is_behind:
                self._behind.set()

    def _fail(self, error: OrderError) -> None:
        log.critical("the order is followed no longer: %s", error)
        self._follower = None
        self._send(link.Failed.of(error))

    def _send(self, frame: link.FromChild) -> None:
        send_frame(self._writer, frame)

    # Beside both.

    async def _fetch_missing(self) -> None:
        """Fetch what does not come by itself."""
        while True:
            await self._behind.wait()
            self._behind.clear()
            await asyncio.sleep(_GAP_S)
            while (follower := self._follower) is not None and (gap := follower.next_missing()) is not None:
                await self._writer.drain()
                last = follower.last
                request = {
                    "seq": gap[0],
                    "batch": min(_FETCH_MESSAGES, gap[1] - gap[0] + 1),
                    "max_bytes": _FETCH_BYTES,
                }
                count = await self._engine.fetch(request, self._take)
                if follower.last > last:
                    self._skips = 0
                    continue
                self._skips += count > 0  # what came is behind a hole, of this replica at least
                if self._skips >= _HOLE_FETCHES:
                    self._fail(OrderTrimmed(last, gap[1] + 1))
                await asyncio.sleep(_GAP_S)

    async def _watch(self) -> None:
        """Compare the stream with what was taken from it, each second."""
        while True:
            await asyncio.sleep(WATCH_S)
            if self._follower is None:
                continue
            try:
                await self._look()
            except OrderTrimmed as error:
                self._fail(error)
            except OrderError as error:
                self._looks += 1
                if self._looks >= _LOOKS:
                    self._fail(error)

    async def _look(self) -> None:
        """Look at the stream once. Raises `OrderLost` and `OrderTrimmed`."""
        follower, last = self._follower, self._follower.last if self._follower else 0
        if follower is None:
            return
        try:
            facts = await self._engine.look()
        except stream.NoStream as error:
            raise OrderLost(f"{error}; {WHAT_HELPS}") from None
        except stream.EngineError:
            return
        if facts.identity != self._identity:
            self._looks = _LOOKS  # it says so itself: no need to look again
        facts.check_place(last, self._identity)
        self._looks = 0
        if last:
            await self._engine.fetch({"seq": last}, self._take)  # is it still what it was?
        self._send(link.Reached(facts.first, facts.last))
        self._see(facts.last)
