"""Listening sockets at their end."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from kvserver.serve import listening
from tests.system.harness import wait_for


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    with listening.bind_listener(request.param, 0, "port") as made:
        yield made


def test_who_is_connected_is_let_in_and_nobody_else(listener: socket.socket) -> None:
    address = listener.getsockname()[:2]
    with socket.create_connection(address) as early:
        early.sendall(b"hello")
        wait_for(lambda: listening.count_unaccepted(listener) == 1, "the connection")
        listening.drop_new_connections(listener)
        with pytest.raises(TimeoutError):
            socket.create_connection(address, 0.05)
        assert listening.count_unaccepted(listener) == 1
        accepted, _ = listener.accept()
        assert listening.count_unaccepted(listener) == 0
        listener.close()
        with accepted:
            assert accepted.recv(5) == b"hello"
            accepted.sendall(b"world")
        assert early.recv(5) == b"world"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 5)


def test_what_the_kernel_does_not_tell_of_is_nobody() -> None:
    with socket.socket(socket.AF_UNIX) as other:
        listening.drop_new_connections(other)
        assert listening.count_unaccepted(other) == 0
