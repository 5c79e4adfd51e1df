"""The gateway on a store whose shards are this test: what it shows when, and how it loses what it must lose."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
from websockets.frames import Close, Opcode

from kvserver.web.handover import ACCEPTED, VERSION
from shards.host.board import Board, ProcessRow
from shards.log.appender import LogAppender
from shards.log.records import HEADER
from shards.wire.protocol import (
    PUBLISH_BYTES,
    Activity,
    DeleteEvent,
    Event,
    PrefixMarked,
    PutEvent,
    TouchEvent,
    count_changes,
    encode_activity,
    encode_events,
)
from tests.stores import Store, new_store
from tests.system.harness import wait_for
from tests.system.raw import HANDSHAKE, Raw, masked, request

ROOT = Path(__file__).parents[2]


class FakeShards:
    """Shards that append what they are told, and are killed, slow or silent at will."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._logs = [LogAppender(store.board, index) for index in range(2)]
        self._publish = [self._context.socket(zmq.PUB) for _ in range(2)]
        for index, publish in enumerate(self._publish):
            publish.bind(f"ipc://{store.run_dir}/shard-{index}.pub")
        self._worker = self._context.socket(zmq.XPUB)  # a PUB that tells who subscribed

    def append(self, shard: int, *events: Event) -> bytes:
        """Log a record, which stays open. Returns its bytes."""
        payload = encode_events(events)
        self._logs[shard].append(payload, count_changes(events), self.store.board.now())
        return self._logs[shard].appended

    def apply(self, shard: int) -> None:
        """Make visible what is open."""
        self.store.board.shards[shard].clear_open()

    def publish(self, shard: int, record: bytes) -> None:
        """Tell the gateways."""
        self._publish[shard].send(record if len(record) <= PUBLISH_BYTES else record[:HEADER])

    def commit(self, shard: int, *events: Event) -> None:
        """All of it."""
        record = self.append(shard, *events)
        self.apply(shard)
        self.publish(shard, record)

    def put(self, key: str, value: str = "x", shard: int = 0) -> None:
        """Commit one put."""
        self.commit(shard, PutEvent(key.encode(), value.encode(), "", 0))

    def report(self, *lines: Activity) -> None:
        """Activity of a worker."""
        self._worker.send(encode_activity(lines))

    def connect_worker(self, gateway: int) -> None:
        """As a worker connects to a gateway's row, and until the gateway has subscribed."""
        self._worker.connect(f"ipc://{self.store.run_dir}/gateway-{gateway}.activity")
        assert self._worker.poll(20_000) and self._worker.recv() == b"\x01"

    def close(self) -> None:
        """Close everything."""
        self._context.destroy(linger=0)
        for log in self._logs:
            log.close()


class Gateways:
    """gunicorn with the configuration that is shipped."""

    def __init__(self, store: Store, workers: int = 1) -> None:
        self.run_dir, self._board = store.run_dir, store.board
        self.log_path = store.run_dir / "gateway.log"
        settings = {
            "KVSERVER_RUN_DIR": str(store.run_dir),
            "KVSERVER_GATEWAYS": str(workers),
            "KVSERVER_ALLOWED_HOSTS": "*",
        }
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", "deploy/gateway.conf.py", "kvserver.gateway:app"],
                env=os.environ | settings | {"KVSERVER_PARENT_PID": str(os.getpid())},
                cwd=ROOT,
                stderr=log,
            )
        wait_for(lambda: len(self.up(store.board)) == workers, "the gateways")

    def up(self, board: Board) -> list[int]:
        """Rows of gateways that serve."""
        return [index for index, row in board.gateways.living_rows() if row.state == ProcessRow.UP]

    def connect(self) -> Raw:
        """A client of one of them, which has its ping."""
        client = self.tcp()
        client.upgrade("/wal")
        assert client.frame().opcode is Opcode.PING
        return client

    def tcp(self) -> Raw:
        """A connection to the Unix socket that they share."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(20)
        connection.connect(str(self.run_dir / "gateway.sock"))
        return Raw(connection)

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self.process.terminate()
        try:
            assert self.process.wait(15) == 0, self.log_path.read_text()
            assert "Traceback" not in self.log_path.read_text(), self.log_path.read_text()
        finally:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def store() -> Iterator[Store]:
    """A store with short paths."""
    with tempfile.TemporaryDirectory(prefix="kv-") as path:
        store = new_store(Path(path))
        yield store
        store.close()


@pytest.fixture
def shards(store: Store) -> Iterator[FakeShards]:
    """Its shards."""
    shards = FakeShards(store)
    yield shards
    shards.close()


@pytest.fixture
def gateways(store: Store, shards: FakeShards) -> Iterator[Gateways]:
    """One gateway."""
    gateways = Gateways(store)
    shards.connect_worker(0)
    yield gateways
    gateways.stop()


def line(client: Raw) -> str:
    """The next line."""
    return client.frame_but_pings().data.decode()


def test_only_what_is_applied_is_shown(shards: FakeShards, gateways: Gateways) -> None:
    """A shard that stopped between append and apply holds back what stands behind its record, and only that."""
    with gateways.connect() as client:
        shards.put("first")
        assert line(client) == "Insert { key: first, value: x }"
        held = shards.append(0, PutEvent(b"held", b"x", "", 0))
        for number in range(3):
            shards.put(f"behind{number}", shard=1)
        with gateways.connect() as late:
            shards.put("behind3", shard=1)
            wait_for(lambda: shards.store.board.gateways[0].clients == 2, "two clients")
            shards.apply(0)
            shards.publish(0, held)
            assert [line(client) for _ in range(5)] == [
                "Insert { key: held, value: x }",
                *(f"Insert {{ key: behind{n}, value: x }}" for n in range(4)),
            ]
            assert line(late) == "Insert { key: behind3, value: x }"


def test_what_was_not_published_is_read(shards: FakeShards, gateways: Gateways) -> None:
    """Records whose message was lost, also the last before a silence, and records too large to be published."""
    with gateways.connect() as client:
        shards.append(0, PutEvent(b"lost", b"x", "", 0))
        shards.apply(0)
        assert line(client) == "Insert { key: lost, value: x }"
        shards.put("large", "x" * 1_000_000)
        shards.publish(0, shards.append(1, PutEvent(b"garbage", b"x", "", 0))[:-1] + b"?")
        shards.apply(1)
        assert line(client) == f"Insert {{ key: large, value: {'x' * 1_000_000} }}"
        assert line(client) == "Insert { key: garbage, value: x }"


def test_what_makes_no_line(shards: FakeShards, gateways: Gateways) -> None:
    """Touches, and the deletes of a prefix delete, which its mark shows."""
    with gateways.connect() as client:
        shards.commit(0, TouchEvent(b"k", 1), PrefixMarked(b"p"), DeleteEvent(b"p1", "prefix", 3))
        shards.commit(1, DeleteEvent(b"p2", "prefix", 3), DeleteEvent(b"k", "expire"), PrefixMarked(b""))
        assert [line(client) for _ in range(3)] == ["DeletePrefix { key: p }", "Delete { key: k }", "DeleteAll"]


def test_activity_stands_at_its_place(shards: FakeShards, gateways: Gateways) -> None:
    """A read that saw a change is never shown before it, whatever comes first."""
    board = shards.store.board
    with gateways.connect() as client:
        wait_for(lambda: board.gateways[0].listening == 1, "the word that somebody listens")
        record = shards.append(0, PutEvent(b"k", b"1", "", 0))
        shards.report(
            Activity(board.last_revision(), "read", b"k", 0), Activity(board.last_revision() - 1, "list", b"", 0)
        )
        assert line(client) == "List"
        shards.apply(0)
        shards.publish(0, record)
        assert [line(client), line(client)] == ["Insert { key: k, value: 1 }", "Read { key: k}"]
        shards.report(Activity(1, "list_prefix", b"late", 0))
        assert line(client) == "ListPrefix { prefix: late}"
    wait_for(lambda: board.gateways[0].listening == 0, "the word that nobody listens")


def test_who_is_overtaken_by_trimming_is_closed(store: Store, shards: FakeShards, gateways: Gateways) -> None:
    """It gets what its socket holds, and is told to come again; who reads goes on."""
    value = "x" * 1_000_000
    with gateways.connect() as stalled, gateways.connect() as client:
        for number in range(30):
            shards.put(f"k{number}", value)
            assert line(client).startswith(f"Insert {{ key: k{number}, ")
        # What the supervisor does to a segment that nobody needs: it gets another name, and is written anew.
        store.segments.prepare_next()
        (store.log_dir / "000000000000.log").rename(store.log_dir / "000000000009.log")
        with (store.log_dir / "000000000009.log").open("r+b") as file:
            file.write(bytes(64 << 20))
        shards.put("behind")
        shown = []
        while (frame := stalled.frame_but_pings()).opcode is Opcode.TEXT:
            shown.append(frame.data[:20].decode().split(",")[0])
        assert shown == [f"Insert {{ key: k{number}" for number in range(len(shown))]
        assert Close.parse(bytes(frame.data)).code == 1013
        assert stalled.rest() == b""


def test_heartbeats_reach_the_clients_of_all_gateways(store: Store, shards: FakeShards) -> None:
    """Whichever of them the client is connected to."""
    gateways = Gateways(store, workers=2)
    try:
        with hand_over(store, 0, "10.0.0.1:1") as here, hand_over(store, 1, "10.0.0.1:2") as there:
            for client in (here, there):
                client.upgrade("/wal")
                assert client.frame().opcode is Opcode.PING
            seen_there = []

            def beat() -> bool:
                """Another client answers its ping. The gateways may still be about to connect to each other."""
                port = 10 + len(seen_there)
                with hand_over(store, 0, f"10.0.0.1:{port}") as client:
                    client.upgrade("/wal")
                    client.send(masked(Opcode.PONG, b"\x01\x02\x03"))
                    assert line(here) == f"Heartbeat from 10.0.0.1:{port}"
                seen_there.append(bool(select.select([there.socket], [], [], 0.1)[0]))
                return seen_there[-1]

            wait_for(beat, "a heartbeat at the other gateway")
            assert line(there) == f"Heartbeat from 10.0.0.1:{9 + len(seen_there)}"
    finally:
        gateways.stop()


def test_the_gateway_belongs_to_one_run_of_the_store(store: Store, shards: FakeShards, gateways: Gateways) -> None:
    """When another board is in the place, its clients are sent away, and it starts again on the new one."""
    with gateways.connect() as client:
        new = Board.create(store.board.path, store.board.facts)
        new.advance(*store.board.history())
        new.install()
        assert client.closed_with() == Close(1012, "the server is stopping")
    wait_for(lambda: gateways.up(new), "a gateway of the new run")
    new.close()


# Handover


def hand_over(store: Store, row: int, peer: str, head: bytes = b"", rest: bytes = b"", version: int = VERSION) -> Raw:
    """A client whose connection was given to the gateway of `row`; fails if that does not take it."""
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel, theirs:
        channel.settimeout(20)
        channel.connect(str(store.run_dir / f"gateway-{row}.handover"))
        message = msgspec.msgpack.encode([version, peer, head, rest])
        socket.send_fds(channel, [message], [theirs.fileno()])
        assert channel.recv(2) == ACCEPTED
    return Raw(ours)


def test_a_connection_is_handed_over_with_what_was_read(store: Store, shards: FakeShards, gateways: Gateways) -> None:
    """The address is the client's."""
    head = request("GET", "/wal", HANDSHAKE)
    with hand_over(store, 0, "[::1]:4711", head, b"\x8a\x83\x00\x00\x00\x00\x01\x02\x03") as client:
        assert client.head().startswith(b"HTTP/1.1 101 ")
        assert client.frame().opcode is Opcode.PING


def test_what_is_no_hand_over_is_let_go(store: Store, gateways: Gateways) -> None:
    """Garbage, other versions, no descriptor, and workers that no longer wait: the connection is not touched."""
    path = str(store.run_dir / "gateway-0.handover")
    for version, fds, waits in [(VERSION + 1, 1, True), (VERSION, 0, True), (VERSION, 1, False), (None, 1, True)]:
        ours, theirs = socket.socketpair()
        message = b"garbage" if version is None else msgspec.msgpack.encode([version, "1.2.3.4:5", b"", b""])
        with ours, theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
            channel.settimeout(20)
            channel.connect(path)
            socket.send_fds(channel, [message], [theirs.fileno()] * fds)
            if waits:
                assert channel.recv(2) == b""
            channel.close()
            theirs.close()
            ours.settimeout(20)
            assert ours.recv(1) == b""  # no descriptor of it is left open, and nothing was said on it
    with hand_over(store, 0, "1.2.3.4:5") as client:
        client.upgrade("/wal")
