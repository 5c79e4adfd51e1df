"""A web worker's connections and application in process: real sockets, uvloop, a real board; a dict for the shards.

The clock is the test's: `advance` lets time pass at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import uvloop
from prometheus_client import CollectorRegistry
from uvicorn.config import Config

from kvserver.access.tokens import Tokens
from kvserver.app import create_app
from kvserver.http.origins import Hosts, Origins, Pages
from kvserver.http.reports.counting import Counts
from kvserver.web.connection import HttpConnection
from kvserver.web.context import WorkerContext
from kvserver.web.hot.hotpath import HotPath
from shards.host.board import Board, WorkerRow
from shards.maps.layout import Item
from shards.wire.protocol import Delete, Done, Put
from tests.facts import make_facts


class Shards:
    """What a `StoreClient` gives, out of a dict. `gate` holds writes up while it is cleared."""

    reading = None

    async def settle(self, item: Item | None) -> None:
        """There is no cluster."""

    def __init__(self) -> None:
        self.values: dict[bytes, tuple[bytes, str]] = {}
        self.seen: list[tuple[str, bytes]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.page = 1000
        self.break_list_after: int | None = None
        self.fail: Exception | None = None
        self.deleted: list[bytes] = []

    def get(self, key: bytes) -> Item | None:
        self.seen.append(("read", key))
        return self.describe(key)

    def describe(self, key: bytes) -> Item | None:
        if self.fail is not None:
            raise self.fail
        if key not in self.values:
            return None
        value, content_type = self.values[key]
        return Item(1, 1, 0, 0, 0, content_type, value, len(value))

    async def request(self, operation: Put | Delete) -> Done:
        await self.gate.wait()
        if self.fail is not None:
            raise self.fail
        old = self.values.pop(operation.key, None)
        if isinstance(operation, Put):
            self.values[operation.key] = (operation.value, operation.content_type)
        return Done(1, old is not None, old[0] if old else None)

    async def list_keys(self, prefix: bytes) -> AsyncIterator[list[bytes]]:
        found = sorted(key for key in self.values if key.startswith(prefix))
        for page, start in enumerate(range(0, len(found), self.page)):
            if page == self.break_list_after:
                raise RuntimeError("broken on purpose")
            yield found[start : start + self.page]
            await asyncio.sleep(0)

    async def delete_prefix(self, prefix: bytes) -> AsyncIterator[list[bytes]]:
        async for page in self.list_keys(prefix):
            self.deleted += page
            yield page
        for key in self.deleted:
            self.values.pop(key, None)

    def report_activity(self, kind: str, subject: bytes) -> None:
        self.seen.append((kind, subject))


class Answer(NamedTuple):
    """A parsed answer; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, method: str = "GET") -> Answer:
        """The next answer on the connection. Raises `EOFError` if the connection ends before it."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head[:-4].split("\r\n")
        names = [field.partition(":")[0].lower() for field in fields]
        assert len(set(names)) == len(names), f"a header twice: {names}"
        headers = {field.partition(":")[0].lower(): field.partition(":")[2].strip() for field in fields}
        status = int(line.split()[1])
        if method == "HEAD" or status < 200 or status in (204, 304):
            body = b""
        elif "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            body = await self._chunks()
        else:
            body = await self.reader.read()
        return Answer(status, headers, body)

    async def _chunks(self) -> bytes:
        body = bytearray()
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        assert await self.reader.readexactly(2) == b"\r\n"
        return bytes(body)

    async def ask(self, data: bytes) -> Answer:
        await self.send(data)
        return await self.answer(data.partition(b" ")[0].decode("latin-1"))

    def reset(self) -> None:
        """Break the connection off."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def ended(self) -> bool:
        """Whether the server has ended the connection, with nothing more to read."""
        return await self.reader.read(1) == b""


def request(method: str, path: str, *fields: str, body: bytes = b"", host: str | None = "kv.example") -> bytes:
    """A request of HTTP/1.1, with Content-Length if there is a body or the method is PUT."""
    lines = [f"{method} {path} HTTP/1.1", *([f"Host: {host}"] if host is not None else []), *fields]
    if body or (method == "PUT" and not any("Transfer-Encoding" in field for field in fields)):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Front:
    """The server's end: connections and the application, of the store that `board` is of.

    `row`: the worker's, which can be claimed only once. `store`: a `StoreClient`, or what stands in for one.
    `pages`: who may ask; None: everybody.
    """

    def __init__(
        self,
        board: Board,
        row: WorkerRow,
        store: Any,
        pages: Pages | None = None,
        hot: bool = False,
    ) -> None:
        self.board, self.row, self.store = board, row, store
        self.registry = CollectorRegistry()
        self.counts = Counts(self.registry)
        self.context = WorkerContext(board, self.row, self.counts, pages or Pages(Origins("*"), Hosts()), Tokens(board))
        if hot:
            self.context.hot_path = HotPath(store, self.context)
        self._passed = 0.0
        self._clients: list[Client] = []

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        app = create_app(self.store, self.board, self.context)  # type: ignore[arg-type]
        config = Config(app, ws="none", lifespan="off", interface="asgi3", proxy_headers=False, log_config=None)
        self.tick()
        self._server = await self.loop.create_server(
            lambda: HttpConnection(config, self.context, {}, self.loop), "127.0.0.1", 0
        )
        self.port: int = self._server.sockets[0].getsockname()[1]

    def tick(self) -> None:
        """What the worker does several times a second."""
        self.context.set_time(self.loop.time() + self._passed, time.time())
        for connection in list(self.context.connections):
            connection.check_deadline(self.context.clock)  # type: ignore[union-attr]

    async def advance(self, seconds: float) -> None:
        """Let time pass."""
        await self.settle()
        self._passed += seconds
        self.tick()

    async def settle(self) -> None:
        """Let everything that was sent be taken in. (A tick in between: a deadline counts from the last one.)"""
        for _ in range(20):
            await asyncio.sleep(0.001)

    async def connect(self, address: str = "127.0.0.1") -> Client:
        """A connection from `address`, which is one of loopback."""
        opened = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24, local_addr=(address, 0))
        client = Client(*opened)
        self._clients.append(client)
        return client

    async def ask(self, data: bytes) -> Answer:
        """One request on a connection of its own."""
        client = await self.connect()
        try:
            return await client.ask(data)
        finally:
            client.writer.close()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for `condition()`."""
        give_up_at = time.monotonic() + 10
        turns = 0
        while not condition():
            assert time.monotonic() < give_up_at, "it never came"
            turns += 1
            await asyncio.sleep(0 if turns < 20 else 0.001)  # most things come within a few turns of the loop

    async def close(self) -> None:
        """Everything must be given back."""
        self._server.close()
        for client in self._clients:
            client.writer.close()
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()
        await self.until(self._is_idle)
        assert self.context.load.in_flight == 0 == self.row.in_flight
        assert self.context.load.bytes_held == 0 == self.context.load.bytes_owed
        assert self.context.load.quotas.is_empty
        del self.row, self.context

    def _is_idle(self) -> bool:
        self.tick()  # only then is it seen that a client left of whom nothing is read
        return not self.context.connections and not self.context.tasks


class Web(Front):
    """The server's end over a dict and a board of its own."""

    def __init__(self, run_dir: Path, pages: Pages) -> None:
        board = Board.create(
            run_dir / "board",
            make_facts(str(run_dir), max_value=100_000),
        )
        board.install()
        self.run_dir = run_dir
        self.shards = Shards()
        super().__init__(board, board.workers.claim_row()[1], self.shards, pages)

    async def close(self) -> None:
        """Everything must be given back, the board too."""
        self.shards.gate.set()
        await super().close()
        self.board.close()


def scenario(
    test: Callable[[Web], Awaitable[None]], origins: str = "*", hosts: Sequence[str] = ("*",)
) -> Callable[[Path], None]:
    """Run an asynchronous test against connections of its own, for pages of `origins`, under the names `hosts`."""

    def run(tmp_path: Path) -> None:
        async def main() -> None:
            web = Web(tmp_path, Pages(Origins(origins), Hosts(hosts)))
            await web.start()
            try:
                await asyncio.wait_for(test(web), 30)
            finally:
                await web.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run
