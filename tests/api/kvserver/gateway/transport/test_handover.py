"""Connections that a web worker hands over, with the worker played by this process."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent  # type: ignore[import-untyped]
import msgspec
import pytest
from gevent import socket as gsocket

from kvserver.gateway.transport.handover import HandoverListener
from kvserver.web.handover import ACCEPTED, VERSION
from tests.api.kvserver.gateway.transport.pairs import until

MESSAGE = msgspec.msgpack.encode((VERSION, "[fd00::1]:7", b"head", b"rest"))


class House:
    """A listener, and what it took over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.adopted: list[tuple[Any, Any, bytes]] = []
        self.has_room = True
        self.listener = HandoverListener(path, lambda *given: self.adopted.append(given), lambda: self.has_room)
        self.running = gevent.spawn(self.listener.run)

    def offer(self, message: bytes = MESSAGE, count: int = 1) -> bytes:
        """Hand over `count` descriptors with a message; the answer."""
        ours, theirs = zip(*[socket.socketpair() for _ in range(count)], strict=True) if count else ((), ())
        with gsocket.socket(gsocket.AF_UNIX, gsocket.SOCK_SEQPACKET) as channel:
            channel.connect(str(self.path))
            fds = [each.fileno() for each in theirs]
            socket.send_fds(channel, [message], fds) if fds else channel.send(message)
            answer: bytes = channel.recv(10)
        for each in (*ours, *theirs):
            each.close()
        return answer


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path / "gateway-0.handover")
    yield house
    house.listener.close()
    house.running.join()
    for connection, _, _ in house.adopted:
        connection.close()


def test_a_connection_is_taken_over_with_what_was_read_from_it(house: House) -> None:
    assert house.offer() == ACCEPTED
    until(lambda: house.adopted)
    ((connection, address, received),) = house.adopted
    assert (address, received) == (("fd00::1", 7), b"headrest") and connection.fileno() > 0


def test_an_address_may_be_unknown(house: House) -> None:
    assert house.offer(msgspec.msgpack.encode((VERSION, "", b"", b""))) == ACCEPTED
    until(lambda: house.adopted)
    assert house.adopted[0][1] == ""


@pytest.mark.parametrize(
    ("message", "count"),
    [
        (msgspec.msgpack.encode((VERSION + 1, "", b"", b"")), 1),
        (b"not MessagePack", 1),
        (MESSAGE, 0),
        (MESSAGE, 2),
    ],
)
def test_what_is_not_taken_over_gets_no_answer(house: House, message: bytes, count: int) -> None:
    assert house.offer(message, count) == b"" and not house.adopted


def test_without_room_workers_get_no_answer(house: House) -> None:
    house.has_room = False
    assert house.offer() == b"" and not house.adopted
    house.has_room = True
    assert house.offer() == ACCEPTED


def test_a_removed_file_is_made_again(house: House) -> None:
    house.path.unlink()
    house.listener.restore_file()
    assert house.offer() == ACCEPTED


def test_a_closed_listener_leaves_no_file(house: House) -> None:
    house.listener.close()
    house.listener.restore_file()
    assert not house.path.exists()
