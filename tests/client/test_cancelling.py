"""Cancellations of the asynchronous client that come at the same moment as a change: none is lost, and no change is."""

from __future__ import annotations

import asyncio
import json

import pytest

from kvserver.client import AsyncClient, Delete

ROUNDS = 200


class Feed:
    """A feed that sends a change when a test wants one, within the event loop of the test."""

    def __init__(self) -> None:
        self.sent = 0
        self._writers: list[asyncio.StreamWriter] = []
        self.connected = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self._writers.append(writer)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n")
        self._send(writer, {"type": "hello", "cursor": "e.0"})
        self.connected.set()

    def send_change(self) -> None:
        """Send the next change: a delete, so that `wait` and `observe` go on waiting."""
        self.sent += 1
        event = {"op": "delete", "key": "k", "revision": self.sent, "time": "2026-01-01T00:00:00Z", "cause": "request"}
        self._send(self._writers[-1], {"type": "events", "cursor": f"e.{self.sent}", "events": [event]})

    @staticmethod
    def _send(writer: asyncio.StreamWriter, message: dict[str, object]) -> None:
        writer.write(json.dumps(message).encode() + b"\n")

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
            await asyncio.sleep(0)


async def cancel_after(task: asyncio.Task[None], steps: int) -> None:
    """Cancel a task that many steps of the event loop from now, and see that it ends by that."""
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task}, timeout=1)
    lost = not task.done()
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
    assert not lost and task.cancelled(), f"a cancellation was lost, {steps} steps after the change"


def test_a_cancelled_watch_ends_and_loses_no_change() -> None:
    async def main() -> None:
        feed, seen = Feed(), list[int]()
        async with await asyncio.start_server(feed.serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with AsyncClient(f"http://127.0.0.1:{port}") as kv, kv.watch(since="e.0") as watch:

                async def follow() -> None:
                    async for change in watch:
                        assert isinstance(change, Delete)
                        seen.append(change.revision)

                await feed.connected.wait()
                for number in range(ROUNDS):
                    task = asyncio.create_task(follow())
                    await asyncio.sleep(0)
                    feed.send_change()
                    await cancel_after(task, number % 8)
                feed.send_change()
                async for change in watch:
                    assert isinstance(change, Delete)
                    seen.append(change.revision)
                    if change.revision == feed.sent:
                        break
            await feed.close()
        assert seen == list(range(1, ROUNDS + 2))

    asyncio.run(main())


@pytest.mark.parametrize("what", ["wait", "observe", "lock"])
def test_a_cancelled_wait_ends(what: str) -> None:
    async def main() -> None:
        for number in range(32):
            feed = Feed()
            async with await asyncio.start_server(feed.serve, "127.0.0.1", 0) as server:
                port = server.sockets[0].getsockname()[1]
                async with AsyncClient(f"http://127.0.0.1:{port}") as kv:

                    async def go(kv: AsyncClient = kv) -> None:
                        if what == "wait":
                            await kv.wait("k")
                        elif what == "lock":
                            await kv._wait_until_gone("other", float("inf"))
                        else:
                            async for _ in kv.election("k").observe():
                                pass

                    task = asyncio.create_task(go())
                    await feed.connected.wait()
                    for _ in range(8):
                        await asyncio.sleep(0)
                    feed.send_change()
                    await cancel_after(task, number % 8)
                await feed.close()

    asyncio.run(main())
