"""A socket to one incarnation of a shard, against a real ROUTER."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from kvserver.store.shard_socket import ShardSocket
from tests.api.kvserver.store.test_link import until


class Ends:
    """Both ends, and what the worker's end was called for."""

    def __init__(self, directory: Path) -> None:
        self.path = f"{directory}/shard-0"
        self.context: zmq.Context[Any] = zmq.Context()
        self.router: zmq.Socket[Any] | None = None
        self.calls: list[str] = []

    def bind(self, incarnation: int) -> zmq.Socket[Any]:
        self.router = self.context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.LINGER, 0)
        self.router.bind(f"ipc://{self.path}-{incarnation:x}.req")
        return self.router

    def connect(self, incarnation: int) -> ShardSocket:
        made = ShardSocket(
            self.context,
            self.path,
            asyncio.get_running_loop(),
            incarnation,
            lambda: self.calls.append("readable"),
            lambda: self.calls.append("connected"),
            lambda: self.calls.append("lost"),
        )
        made.check_monitor()
        return made


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    made = Ends(tmp_path)
    yield made
    made.context.destroy(linger=0)


def run(test: Callable[[Ends], Awaitable[None]], ends: Ends) -> None:
    async def main() -> None:
        await test(ends)

    asyncio.run(main())


def test_it_connects_to_the_path_of_its_incarnation(ends: Ends) -> None:
    async def main(ends: Ends) -> None:
        router = ends.bind(0x1F)
        socket = ends.connect(0x1F)
        await until(lambda: "connected" in ends.calls)
        assert socket.send(b"request")
        await until(lambda: router.poll(0))
        identity, frame = router.recv_multipart()
        assert frame == b"request"
        router.send_multipart([identity, b"first"])
        router.send_multipart([identity, b"second"])
        received: list[bytes] = []

        def receive() -> bool:
            received.extend(socket.receive())
            return len(received) == 2

        await until(receive)
        assert received == [b"first", b"second"]
        socket.close()

    run(main, ends)


def test_without_a_shard_nothing_is_accepted(ends: Ends) -> None:
    async def main(ends: Ends) -> None:
        ends.bind(1)
        socket = ends.connect(2)
        assert not socket.send(b"meant for incarnation 2")
        assert list(socket.receive()) == []
        socket.close()
        assert "connected" not in ends.calls

    run(main, ends)


def test_the_death_of_the_shard_is_reported(ends: Ends) -> None:
    async def main(ends: Ends) -> None:
        router = ends.bind(1)
        socket = ends.connect(1)
        await until(lambda: "connected" in ends.calls)
        router.close(0)
        await until(lambda: "lost" in ends.calls)
        socket.close()

    run(main, ends)


def test_a_closed_socket_receives_nothing(ends: Ends) -> None:
    async def main(ends: Ends) -> None:
        ends.bind(1)
        socket = ends.connect(1)
        await until(lambda: "connected" in ends.calls)
        frames = socket.receive()
        socket.close()
        assert list(frames) == []
        socket.check_monitor()

    run(main, ends)
