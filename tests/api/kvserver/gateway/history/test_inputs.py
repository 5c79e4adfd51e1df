"""The sockets of a gateway, with shards and other gateways played by this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent  # type: ignore[import-untyped]
import pytest
import zmq

from kvserver.gateway.history.inputs import GatewayInputs
from shards.wire.protocol import Activity, decode_activity, encode_activity
from tests.stores import Store, new_store

Peers = Callable[[int], zmq.Socket[bytes]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = new_store(tmp_path, shards=1)
    yield store
    store.close()


@pytest.fixture
def peers() -> Iterator[Peers]:
    """Makes sockets of other processes, of a type."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[zmq.Socket[bytes]] = []

    def new_socket(kind: int) -> zmq.Socket[bytes]:
        made.append(context.socket(kind))
        return made[-1]

    yield new_socket
    for each in made:
        each.close(0)
    context.term()


@pytest.fixture
def inputs(store: Store) -> Iterator[GatewayInputs]:
    store.board.gateways.claim_row()
    inputs = GatewayInputs(store.board, store.run_dir, 0)
    yield inputs
    inputs.close()


def until(condition: Callable[[], object]) -> None:
    """Wait for `condition`."""
    give_up_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_at, "it never came"
        gevent.sleep(0.002)


def test_records_come_only_while_they_are_wanted(store: Store, peers: Peers, inputs: GatewayInputs) -> None:
    shard = peers(zmq.XPUB)
    shard.bind(f"ipc://{store.run_dir}/shard-0.pub")
    inputs.subscribe(True)
    assert shard.recv() == b"\x01"
    shard.send(b"record")
    got: list[bytes] = []
    until(lambda: got.extend(inputs.receive_records()) or got)
    assert got == [b"record"]
    inputs.subscribe(True)
    inputs.subscribe(False)
    assert shard.recv() == b"\x00"


def test_activity_comes_from_everywhere(store: Store, peers: Peers, inputs: GatewayInputs) -> None:
    other = peers(zmq.PUB)
    other.connect(f"ipc://{store.run_dir}/gateway-0.activity")
    line = Activity(7, "read", b"k", 1)
    got: list[Activity] = []

    def receive() -> bool:
        other.send(b"of another version")  # lost, like the next, until the sockets are connected
        other.send(encode_activity([line]))
        inputs.wait(0.05)
        for lines in inputs.receive_activity():
            got.extend(lines)
        return bool(got)

    until(receive)
    assert all(each == line for each in got)


def test_a_wake_ends_the_wait(inputs: GatewayInputs) -> None:
    inputs.wake()
    inputs.wait(1000)
    gevent.spawn(inputs.wake)
    inputs.wait(1000)


def test_activity_is_sent_to_other_gateways(store: Store, peers: Peers, inputs: GatewayInputs) -> None:
    index, row = store.board.gateways.claim_row()
    row.listening = 1
    other = peers(zmq.SUB)
    other.setsockopt(zmq.SUBSCRIBE, b"")
    other.bind(f"ipc://{store.run_dir}/gateway-{index}.activity")
    got: list[Activity] = []

    def receive() -> bool:
        inputs.flush()
        inputs.send_activity("list", b"", 5)
        inputs.flush()
        if other.poll(10):
            got.extend(decode_activity(other.recv()))
        return bool(got)

    until(receive)
    assert [(line.kind, line.end) for line in got[:1]] == [("list", 5)]


def test_the_activity_file_is_made_again(store: Store, inputs: GatewayInputs) -> None:
    path = store.run_dir / "gateway-0.activity"
    path.unlink()
    inputs.restore_file()
    assert path.is_socket()
