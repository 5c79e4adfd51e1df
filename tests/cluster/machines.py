"""Machines of a cluster in this process: shards with stores of their own, on an order that the test holds."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from shards.host.board import Board
from shards.log.manifest import Manifest
from shards.log.records import Record
from shards.order.messages import encode_init, init_of
from shards.server.clustered import ClusteredServer
from shards.wire.protocol import Operation, Reply
from tests.api.shards.server.tools import PATIENCE_S, Client, check, logged
from tests.cluster.fake_order import FakeStream, Faults
from tests.stores import Store, new_store

NODES = ("a", "b", "c")
FIRST = 1000
"""The first revision of the cluster."""


class Machine:
    """A machine: its store, and its shard while it runs."""

    def __init__(self, cluster: Machines, node: str, place: Path, reads: str) -> None:
        self.cluster, self.node = cluster, node
        self.store: Store = new_store(place, 1, node=node, reads=reads, next_revision=FIRST)
        self.store.board.show(*self._end())
        facts = self.store.board.facts
        manifest = Manifest.create(self.store.data_dir)
        msgspec.structs.replace(manifest, store=facts.store, secret=facts.secret).save(self.store.data_dir)
        self.server: ClusteredServer | None = None
        self._client: Client | None = None

    def _end(self) -> tuple[int, int]:
        lsn, following = self.store.board.history()
        return lsn, following - 1

    def start(self) -> None:
        """Start the shard, as a process would."""
        board = Board.open(self.store.board.path)
        self.server = ClusteredServer(board, 0, self.store.run_dir, self.cluster.stream.join(self.node))

    def kill(self) -> None:
        """End the shard without any of its duties, and forget what the board says of it, as a death does."""
        server = self.running
        self.disconnect()
        server.following.order.close()
        server.sockets.close()
        server._resources.close()
        server.board.close()
        self.server = None

    @property
    def running(self) -> ClusteredServer:
        assert self.server is not None
        return self.server

    @property
    def client(self) -> Client:
        """A client of the running shard."""
        if self._client is None:
            self._client = Client(self.store, 0, self.cluster.turn)
        return self._client

    def disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def ask(self, *operations: Operation) -> list[Reply]:
        return self.client.ask(*operations)

    @property
    def is_ready(self) -> bool:
        """Whether it may show values."""
        board, now_ns = self.store.board, time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return self.server is not None and board.order.entered > 0 and board.order.lease_until > now_ns

    def value(self, key: bytes) -> bytes | None:
        item = self.running.map.get(key, self.store.board.now())
        return None if item is None else item.value

    def close(self) -> None:
        self.disconnect()
        if self.server is not None:
            check(self.server)
            self.server.close()
            self.server.board.close()
        self.store.close()


class Machines:
    """The machines, and the order of all."""

    def __init__(self, faults: Faults | None = None, seed: int = 0, reads: str = "linear", ahead_ms: int = 0) -> None:
        self.stream = FakeStream(seed, faults, lambda: time.time_ns() // 1_000_000 - ahead_ms)
        self.places = [Path(tempfile.mkdtemp(prefix="kv-")) for _ in NODES]
        self.stream.append(encode_init(init_of("test", "e0", FIRST, NODES, {})))
        self.all = [Machine(self, node, place, reads) for node, place in zip(NODES, self.places, strict=True)]

    def __getitem__(self, node: str) -> Machine:
        return self.all[NODES.index(node)]

    def turn(self) -> None:
        """Turn the loops of all that run."""
        for machine in self.all:
            if machine.server is not None:
                machine.server.run_turn(0.0)
        time.sleep(0.001)

    def until(self, condition: Callable[[], object], what: str) -> None:
        give_up_at = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < give_up_at, what
            self.turn()

    def until_ready(self, *nodes: str) -> None:
        wanted = [self[node] for node in nodes or NODES]
        self.until(lambda: all(machine.is_ready for machine in wanted), f"{nodes} are ready")

    def until_equal(self) -> None:
        """Wait until all that run have all messages, and check that they have made the same of them."""
        running = [machine for machine in self.all if machine.server is not None]
        self.until(
            lambda: (
                len({m.running.following.state.sequence for m in running}) == 1
                and all(m.running.following.proposer.in_flight == 0 for m in running)
                and all(m.store.board.watermark()[1] == m.store.board.last_revision() for m in running)
            ),
            "all have everything",
        )
        assert len({tuple(map(content, logged(machine.store))) for machine in running}) == 1
        assert len({machine.running.following.state.hash for machine in running}) == 1
        assert len({tuple(machine.running.map.list_entries(b"", None, 1 << 30)) for machine in running}) == 1

    def close(self) -> None:
        for machine in self.all:
            machine.close()
        for place in self.places:
            shutil.rmtree(place)


def content(record: Record) -> tuple[int, int, bytes]:
    """What a record is on every machine."""
    return record.revision, record.time_ms, record.payload


@contextmanager
def machines(
    faults: Faults | None = None, seed: int = 0, reads: str = "linear", *, ahead_ms: int = 0, start: bool = True
) -> Iterator[Machines]:
    """Three machines, by default when all are ready. `ahead_ms`: of their clocks, before the order's."""
    made = Machines(faults, seed, reads, ahead_ms)
    try:
        if start:
            for machine in made.all:
                machine.start()
            made.until_ready()
        yield made
    finally:
        made.close()
