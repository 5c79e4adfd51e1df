"""What tests of a shard share: a client of its sockets, its process, and a fold of the log to compare its map with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import zmq

from shards.host.board import Board, ShardRow
from shards.host.process import PARENT_VARIABLE
from shards.log.records import Record
from shards.maps.reader import MapReader
from shards.server.loop import ShardServer
from shards.wire import protocol
from shards.wire.clock import BEGINNING, unix_ms
from shards.wire.protocol import Change, DeleteEvent, Operation, PutEvent, Reply, TouchEvent
from tests.api.maps import entries_of
from tests.stores import Store

T = TypeVar("T")
PATIENCE_S = 20.0


def until(condition: Callable[[], T], what: str) -> T:
    """The first true value of `condition()`."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < give_up_at, f"{what}: not within {PATIENCE_S} s"
        time.sleep(0.005)
    return value


class Client:
    """A DEALER connected to a shard, and a SUB that hears what it publishes.

    `turn`: called while waiting, to turn the loop of a shard that lives in this process.
    """

    def __init__(self, store: Store, shard: int = 0, turn: Callable[[], None] | None = None) -> None:
        self.store, self.shard, self.turn = store, shard, turn or (lambda: time.sleep(0.002))
        self.context: zmq.Context[Any] = zmq.Context()
        self.dealer = self.context.socket(zmq.DEALER)
        self.dealer.setsockopt(zmq.LINGER, 0)
        self.subscriber = self.context.socket(zmq.SUB)
        self.subscriber.setsockopt(zmq.SUBSCRIBE, b"")
        self.incarnation = store.board.shards[shard].incarnation
        self.dealer.connect(f"ipc://{store.run_dir}/shard-{shard}-{self.incarnation:x}.req")
        self.subscriber.connect(f"ipc://{store.run_dir}/shard-{shard}.pub")
        self.next_id = 1
        self.counts: dict[int, int] = {}  # operations of each message
        self.parts: dict[int, dict[int, Reply]] = {}  # what came so far of messages that are answered in parts

    def send(self, *operations: Operation, incarnation: int | None = None, seconds: float = 60.0) -> int:
        """Send one message; its id."""
        id, self.next_id = self.next_id, self.next_id + 1
        self.counts[id] = len(operations)
        deadline_ns = time.monotonic_ns() + int(seconds * 1e9)
        self.send_frames([protocol.encode_request(id, incarnation or self.incarnation, deadline_ns, operations)])
        return id

    def send_frames(self, frames: Sequence[bytes | bytearray]) -> None:
        """Send anything."""
        self.dealer.send_multipart(frames)

    def receive(self) -> tuple[int, list[Reply]]:
        """The next message that is answered, its parts put together."""
        while True:
            [frame] = self._frames(self.dealer, "a reply")
            if not protocol.is_part(frame):
                return protocol.decode_reply(frame)
            id, places, replies = protocol.decode_part(frame)
            parts = self.parts.setdefault(id, {})
            assert parts.keys().isdisjoint(places), "each is answered once"
            parts.update(zip(places, replies, strict=True))
            if len(parts) == self.counts[id]:
                return id, [reply for _, reply in sorted(self.parts.pop(id).items())]

    def published(self) -> bytes:
        """The next frame published."""
        [frame] = self._frames(self.subscriber, "a record on PUB")
        return frame

    def ask(self, *operations: Operation) -> list[Reply]:
        """Send one message and wait for its replies."""
        id = self.send(*operations)
        answered, replies = self.receive()
        assert answered == id
        return replies

    def do(self, operation: Operation) -> Reply:
        """`ask` with one operation."""
        [reply] = self.ask(operation)
        return reply

    def hear(self) -> None:
        """Wait until the subscription has arrived, by writing until something is heard."""
        mark = protocol.MarkPrefix(b"are you there")
        give_up_at = time.monotonic() + PATIENCE_S
        while not self.subscriber.poll(0):
            assert time.monotonic() < give_up_at
            self.do(mark)
        last = self.do(mark)
        assert isinstance(last, protocol.Done)
        while revision_of(self.published()) != last.revision:
            pass

    def close(self) -> None:
        self.context.destroy(linger=0)

    def _frames(self, socket: zmq.Socket[Any], what: str) -> list[bytes]:
        give_up_at = time.monotonic() + PATIENCE_S
        while not socket.poll(0):
            assert time.monotonic() < give_up_at, f"{what}: not within {PATIENCE_S} s"
            self.turn()
        return socket.recv_multipart()


def revision_of(frame: bytes) -> int:
    """The first revision of a published record."""
    return int.from_bytes(frame[32:40], "little")


@contextmanager
def client(store: Store, shard: int = 0, turn: Callable[[], None] | None = None) -> Iterator[Client]:
    made = Client(store, shard, turn)
    try:
        yield made
    finally:
        made.close()


class Shard:
    """`python -m shards` of its own, killed at the end if it still runs. `script`: Python to run before it."""

    def __init__(self, store: Store, index: int = 0, *options: str, script: str = "") -> None:
        self.store, self.index = store, index
        environ = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
        code = f"{script}\nimport sys; from shards.__main__ import main; sys.exit(main(sys.argv[1:]))"
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-W",
                "error",
                "-c",
                code,
                "--index",
                str(index),
                "--data-dir",
                str(store.data_dir),
                "--run-dir",
                str(store.run_dir),
                *options,
            ],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[4],
        )

    @property
    def row(self) -> ShardRow:
        """Its row of the board."""
        return self.store.board.shards[self.index]

    def wait_up(self) -> None:
        """Wait until it serves."""
        until(self._is_up, "the shard is up")

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.end()
        return self.row.pid == self.process.pid and self.row.state == ShardRow.UP

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> tuple[int, str]:
        """SIGTERM; exit status and standard error."""
        self.process.send_signal(signal.SIGTERM)
        return self.end()

    def end(self) -> tuple[int, str]:
        """Wait for its end; exit status and standard error. Nothing may stand on standard output."""
        out, err = self.process.communicate(timeout=PATIENCE_S)
        assert out == b""
        return self.process.returncode, err.decode()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def shard(store: Store, index: int = 0, *options: str, script: str = "", up: bool = True) -> Iterator[Shard]:
    """A shard's process, by default when it serves."""
    made = Shard(store, index, *options, script=script)
    try:
        if up:
            made.wait_up()
        yield made
    finally:
        made.close()


def logged(store: Store) -> list[Record]:
    """Every record of events in the log."""
    reader, found, lsn = store.reader(), [], 0
    tail, _ = store.board.history()
    while lsn < tail:
        records, lsn = reader.read(lsn, tail)
        found += [record for record in records if record.events]
    reader.close()
    return found


def changes(store: Store) -> list[tuple[int, Change]]:
    """Every change in the log with its revision, which go up by one."""
    records = logged(store)
    found = [
        pair for record in records for pair in protocol.changes(protocol.decode_events(record.payload), record.revision)
    ]
    assert [revision for revision, _ in found] == list(range(1, len(found) + 1))
    assert store.board.last_revision() == len(found)
    return found


def folded(store: Store) -> dict[bytes, tuple[int, int, bytes]]:
    """What the log says each key holds: revision, expiry (as told when both clocks began), value."""
    state: dict[bytes, tuple[int, int, bytes]] = {}
    for revision, change in changes(store):
        if isinstance(change, PutEvent):
            state[change.key] = (revision, unix_ms(change.expires_ms, BEGINNING), change.value)
        elif isinstance(change, TouchEvent):
            state[change.key] = (revision, unix_ms(change.expires_ms, BEGINNING), state[change.key][2])
        elif isinstance(change, DeleteEvent):
            del state[change.key]
    return state


def mapped(store: Store) -> dict[bytes, tuple[int, int, bytes]]:
    """What readers in other processes than the shards' see, expired keys included."""
    state = {}
    for index in range(store.board.facts.shards):
        reader = MapReader(store.board, index)
        for key, item in reader.read_page(b"", None, 1_000_000, BEGINNING, values=True, max_bytes=1 << 40)[1]:
            state[key] = (item.revision, item.expires_ms, item.value)
        reader.close()
    return state


def check_agreement(store: Store) -> None:
    """Log and maps say the same, and everything is covered by the watermark."""
    assert mapped(store) == folded(store)
    assert store.board.watermark() == (store.board.history()[0], store.board.last_revision())


@contextmanager
def serving(store: Store, shard: int = 0) -> Iterator[ShardServer]:
    """A shard in this process. If it still serves at the end, it is checked and closed."""
    board = Board.open(store.board.path)
    made = ShardServer(board, shard, store.run_dir)
    yield made
    if board.shards[shard].incarnation == made.sockets.incarnation:
        check(made)
        made.close()
    board.close()


def check(server: ShardServer) -> None:
    """Keyspace and map agree, and so do their own parts."""
    keyspace = server.writer.keyspace
    keyspace.check(entries_of(server.map))
    server.map.check(server.board.facts.shards, server.shard)
    assert server.map.totals == (len(keyspace), keyspace.bytes, keyspace.expiring)


def value(server: ShardServer, key: bytes) -> bytes | None:
    item = server.map.get(key, server.board.now())
    return None if item is None else item.value


def arrive(
    server: ShardServer, asking: Client, messages: list[list[Operation]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Have all `messages` wait for the shard when its loop turns next."""
    receive = server.sockets.receive
    waiting: list[list[bytes]] = []
    for operations in messages:
        asking.send(*operations)
    while len(waiting) < len(messages):
        frames = receive()
        if frames is None:
            server.sockets.wait(1.0)
        else:
            waiting.append(frames)
    monkeypatch.setattr(server.sockets, "receive", lambda: waiting.pop(0) if waiting else receive())


def turn_until(server: ShardServer, condition: Callable[[], object], what: str) -> None:
    """Turn the loop until `condition()`."""

    def turned() -> object:
        server.run_turn(0.005)
        return condition()

    until(turned, what)
