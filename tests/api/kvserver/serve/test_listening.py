"""Listening sockets at their end."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kvserver.serve import listening
from kvserver.serve.listening import ListenError, Listeners
from kvserver.settings import ServerSettings
from tests.system.harness import wait_for


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    with listening.bind_listener(request.param, 0, "port") as made:
        made.listen()
        yield made


def test_a_machine_of_a_cluster_refuses_clients_until_it_can_serve_them(tmp_path: Path) -> None:
    machines = "a=127.0.0.1:4222,b=127.0.0.1:4322,c=127.0.0.1:4422"
    alone = ServerSettings(data_dir=tmp_path, port=0, metrics_port=0)
    waiting = replace(alone, node="a", cluster=machines, shards=1, cluster_secret=tmp_path / "secret")
    listeners = Listeners(waiting)
    try:
        assert listeners.rest is not None
        for listener in (listeners.rest, listeners.metrics):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(listener.getsockname(), 5)
        port = listeners.rest.getsockname()[1]
        with pytest.raises(ListenError, match=r"is taken: choose another with --port"):
            Listeners(replace(waiting, port=port))
        first = Listeners(replace(alone, port=port))
        with pytest.raises(ListenError, match=r"is taken: choose another with --port"):
            listeners.listen()
        first.close()
        listeners.listen()
        socket.create_connection(listeners.rest.getsockname(), 5).close()
    finally:
        listeners.close()


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
