"""`python -m shards.order.jetstream_child`: carries the order of a cluster between NATS JetStream and the shard.

It follows the stream by what the servers republish, and fetches what does not come by direct gets of any replica. What
it hands to the shard has no gaps, and was held by most servers before. It keeps nothing: when it starts anew, the shard
says where it is.

It follows for nobody while another process speaks under the name of this machine: that one would have to stop.

`--create N` makes the stream, with N replicas and the first message that standard input holds, and ends. With
`--first S` it replaces the stream by an empty one whose first message will have the sequence S.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import nats.errors
from nats.aio.msg import Msg

from shards.host import logs, process
from shards.order import link, stream
from shards.order.engine import Engine
from shards.order.order import (
    WHAT_HELPS,
    Identity,
    Message,
    OrderError,
    OrderLost,
    OrderTrimmed,
    OrderUnreachable,
)

_WATCH_S: Final = 1.0
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
_MOST_UNHEARD: Final = 8 << 20
"""Bytes of tidings that the shard has not read, above which they are dropped: newer ones will come."""
_CREATE_S: Final = 60.0
NAMESAKE_S: Final = 1.0
"""For which to listen whether another process speaks under this machine's name."""
_NAMESAKE_SPAN_S: Final = 0.4  # between the first and the last that was heard: what a dead one had said comes at once

log = logging.getLogger("order")


class Namesake:
    """Whether another process speaks under the name of this machine. What this one says it does not hear itself."""

    def __init__(self, engine: Engine, node: str) -> None:
        self._engine, self._node = engine, node
        self._since = 0.0
        self._first = self._last = float("-inf")  # when it was heard, of a time without a pause

    async def listen(self) -> None:
        """Begin to listen, for as long as the connection to the engine lasts."""
        await self._engine.client.subscribe(f"{stream.TELL}.{self._node}", cb=self._note)
        self._since = asyncio.get_running_loop().time()

    async def check(self) -> None:
        """Wait until it would have been heard. Raises `OrderError` if it was for a while, and goes on."""
        time = asyncio.get_running_loop().time
        await asyncio.sleep(self._since + NAMESAKE_S - time())
        last = self._last
        if last < time() - NAMESAKE_S or last - self._first < _NAMESAKE_SPAN_S:
            return
        await asyncio.sleep(NAMESAKE_S)
        if self._last > last:
            raise OrderError(
                f"another machine works under the name {self._node!r}: give this one its own --node, or stop that one "
                "first"
            )

    async def _note(self, _: Msg) -> None:
        now = asyncio.get_running_loop().time()
        if now > self._last + NAMESAKE_S:
            self._first = now
        self._last = now


class Carry:
    """The tidings of one process of the shard: from its connection to the end of that."""

    def __init__(self, engine: Engine, node: str, writer: asyncio.StreamWriter) -> None:
        self._engine, self._node, self._writer = engine, node, writer

    async def run(self, frames: AsyncIterator[link.ToChild]) -> None:
        """Serve the shard until it is gone."""
        async with self._engine.subscribed(
            {f"{stream.TELL}.>": self._hear, f"{stream.ASK}.{self._node}.*": self._hear}
        ):
            async for frame in frames:
                if isinstance(frame, link.Tell):
                    await self._engine.publish(f"{stream.TELL}.{self._node}", frame.payload)
                elif isinstance(frame, link.Ask):
                    await self._engine.publish(f"{stream.ASK}.{frame.node}.{self._node}", frame.payload)

    async def _hear(self, message: Msg) -> None:
        node = message.subject.rpartition(".")[2]
        if node != self._node and self._writer.transport.get_write_buffer_size() < _MOST_UNHEARD:
            _send(self._writer, link.Told(node, message.data))


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
            await asyncio.sleep(_WATCH_S / 4)
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
        _send(self._writer, frame)

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
            await asyncio.sleep(_WATCH_S)
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


async def serve(options: argparse.Namespace) -> None:
    """Serve shards until SIGTERM. A new connection ends the one of its kind before: there is one shard."""
    engine = Engine(options)
    await _keep_trying(engine.connect)
    namesake = Namesake(engine, options.node)
    await namesake.listen()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    current: dict[type, asyncio.Task[None]] = {}

    async def on_shard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            try:
                frames = _read_frames(reader)
                served: Follow | Carry
                async for first in frames:
                    if isinstance(first, link.Listen):
                        served = Carry(engine, options.node, writer)
                    else:
                        served = Follow(engine, options, namesake, writer)
                    if type(served) in current:
                        current[type(served)].cancel()
                    current[type(served)] = cast("asyncio.Task[None]", asyncio.current_task())
                    await served.run(_chained(first, frames))
            except* OSError as group:
                log.debug("the shard is gone: %s", group.exceptions[0])
            except* Exception:
                log.exception("a connection of the shard is given up")
        writer.close()

    path = Path(options.run_dir) / link.SOCKET_NAME
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(on_shard, path, limit=1 << 20)
    async with server:
        await stopped.wait()
        path.unlink(missing_ok=True)
        for task in current.values():
            task.cancel()
    await engine.close()


async def _read_frames(reader: asyncio.StreamReader) -> AsyncIterator[link.ToChild]:
    """Yield what the shard sends."""
    splitter = link.Splitter()
    while data := await reader.read(1 << 20):
        for body in splitter.feed(data):
            yield link.decode_to_child(body)


async def _chained(first: link.ToChild, frames: AsyncIterator[link.ToChild]) -> AsyncIterator[link.ToChild]:
    yield first
    async for frame in frames:
        yield frame


def _send(writer: asyncio.StreamWriter, frame: link.FromChild) -> None:
    if not writer.is_closing():
        writer.write(link.encode_frame(frame))


async def create(options: argparse.Namespace) -> None:
    """Make the stream, and put its first message into it. Raises `OrderError` if there is one with messages.

    With `--first` one that is there is deleted, and no message is put into the new one.
    """
    engine = Engine(options)
    await _keep_trying(engine.connect)
    first = sys.stdin.buffer.read()
    end = asyncio.get_running_loop().time() + _CREATE_S
    problem, sequence = "", options.first
    while asyncio.get_running_loop().time() < end:
        try:
            if sequence > 1:
                await engine.request(stream.DELETE, b"", 5.0)  # its answer may be that there is none
            else:
                await _require_none(engine)
            request = stream.new_stream(options.create, options.max_bytes, sequence)
            facts = stream.read_info(await engine.request(stream.CREATE, request, 5.0))
            await engine.check_flushing(facts.servers)
            if sequence > 1:
                await engine.client.close()
                return
            headers = {"Nats-Expected-Last-Sequence": "0"}
            reply = await engine.client.request(f"{stream.LOG}.{options.node}", first, timeout=5, headers=headers)
            if stream.is_refusal(reply.headers, reply.data):
                raise stream.EngineError(reply.data.decode(errors="replace"))
            await engine.close()
            return
        except (stream.EngineError, nats.errors.Error, TimeoutError) as error:
            if str(error) != problem:
                log.warning("the stream cannot be made yet: %s", error)
            problem = str(error)
            await asyncio.sleep(_WATCH_S / 4)
    raise OrderUnreachable(f"the stream could not be made within {_CREATE_S:g} s: {problem}")


async def _require_none(engine: Engine) -> None:
    """Check that the order has not begun. Raises `OrderError`, and `EngineError` if that is not known."""
    try:
        facts = await engine.look()
    except stream.NoStream:
        return
    if facts.last:
        raise OrderError(
            f"there is a stream {stream.NAME} already, with {facts.last} messages: the order has begun, and machines "
            "that wait for it go on by themselves"
        )


async def _keep_trying(connect: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await connect()
            return
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.warning("the engine cannot be reached yet: %s", error or type(error).__name__)
            await asyncio.sleep(_WATCH_S)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m shards.order.jetstream_child", description=__doc__)
    parser.add_argument("--run-dir", required=True, help="Where the socket is made.")
    parser.add_argument("--node", required=True, help="The name of this machine.")
    parser.add_argument("--servers", required=True, help="URLs of the NATS servers, with commas, the own one first.")
    parser.add_argument("--monitors", default="", help="URLs of their monitoring ports, to ask whether they flush.")
    parser.add_argument("--may-lose", action="store_true", help="Take an engine that may lose messages.")
    parser.add_argument("--user-file", default="", help="A file that holds NAME:PASSWORD.")
    for name in ("tls-ca", "tls-cert", "tls-key"):
        parser.add_argument(f"--{name}", default="", help="A file in PEM.")
    parser.add_argument("--create", type=int, default=0, metavar="N", help="Make the stream, and end.")
    parser.add_argument("--first", type=int, default=1, metavar="S", help="Replace the stream by an empty one.")
    parser.add_argument("--max-bytes", type=int, default=stream.MAX_BYTES, help="Of the stream to be made.")
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--log-format", default="text", choices=logs.FORMATS)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    process.keep_standard_streams()
    options = _parser().parse_args(arguments)
    process.die_with_starter()
    logs.configure_logging(options.log_level, "order", options.log_format)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of how connections with TLS end
    work: Any = create(options) if options.create else serve(options)
    try:
        asyncio.run(work)
    except OrderError as error:
        log.critical("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
