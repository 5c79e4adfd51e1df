"""Accepting: a worker with many connections lets the others go first."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

from kvserver.web.acceptor import Acceptor


class Accepted(asyncio.Protocol):
    """Counts the connections that have one."""

    made: list[Accepted]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made.append(self)
        transport.close()


def listen() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    return listener


def make_protocol_class() -> type[Accepted]:
    return type("Counted", (Accepted,), {"made": []})


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def reraise(error: OSError) -> None:
    raise error


def test_every_connection_gets_a_protocol() -> None:
    async def main() -> None:
        listener, protocol = listen(), make_protocol_class()
        asked: list[bool] = []
        acceptor = Acceptor([listener], protocol, lambda: asked.append(True) or len(asked) % 2 == 1, reraise)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(5)]
        async with asyncio.timeout(20):
            await until(lambda: len(protocol.made) == 5)
        await acceptor.close()
        listener.listen()  # it is still the caller's
        assert len(asked) >= 3, "some went through a pause"
        for client in (*clients, listener):
            client.close()

    asyncio.run(main())


def test_after_close_nothing_is_accepted() -> None:
    async def main() -> None:
        listener, protocol = listen(), make_protocol_class()
        acceptor = Acceptor([listener], protocol, lambda: True, reraise)
        with socket.create_connection(listener.getsockname()), listener:
            await acceptor.close()
            await asyncio.sleep(0.01)
            assert not protocol.made

    asyncio.run(main())


def test_a_shortage_is_reported_and_passes() -> None:
    class Scarce:
        """A listener that lacks a descriptor once."""

        def __init__(self, listener: socket.socket) -> None:
            self.listener, self.failed = listener, False

        def fileno(self) -> int:
            return self.listener.fileno()

        def accept(self) -> tuple[socket.socket, Any]:
            if not self.failed:
                self.failed = True
                raise OSError(errno.EMFILE, "too many")
            return self.listener.accept()

    async def main() -> None:
        listener, protocol = listen(), make_protocol_class()
        reported: list[OSError] = []
        scarce: Any = Scarce(listener)
        acceptor = Acceptor([scarce], protocol, lambda: False, reported.append)
        with socket.create_connection(listener.getsockname()), listener:
            async with asyncio.timeout(20):
                await until(lambda: protocol.made)
            await acceptor.close()
        assert [error.errno for error in reported] == [errno.EMFILE]

    asyncio.run(main())
