"""The application over real shards, in process: what tests of version 1 ask."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import uvloop

from kvserver.http.origins import Pages
from kvserver.store.client import StoreClient
from shards.log.manifest import Manifest
from shards.wire.protocol import Done, Put
from tests.api.shards.server.tools import shard
from tests.api.web import Answer, Front, request
from tests.stores import MOVES_CLOCK, Store, moved_clock, new_store


class Site:
    """An application with its client on a loop that turns while something is awaited."""

    def __init__(
        self,
        runner: asyncio.Runner,
        store: Store,
        moved: memoryview[int],
        hot: bool = False,
        pages: Pages | None = None,
    ) -> None:
        self.run: Callable[[Coroutine[Any, Any, Any]], Any] = runner.run
        self.store = store
        self.client = StoreClient(store.board, store.run_dir, runner.get_loop())
        self.front = Front(store.board, store.board.workers.claim_row()[1], self.client, pages, hot)
        self._moved = moved

    def advance(self, seconds: int) -> None:
        """Let time pass for the store: shards and readers of its maps."""
        self._moved[0] += seconds * 1000

    async def start(self) -> None:
        self.client.start()
        async with asyncio.timeout(20):
            while self.client.links.find_disconnected() is not None:
                await asyncio.sleep(0.005)
        await self.front.start()

    def ask(self, method: str, target: str, *fields: str, body: bytes = b"") -> Answer:
        answer = self.run(self.front.ask(request(method, target, *fields, body=body)))
        assert isinstance(answer, Answer)
        return answer

    def get(self, target: str, *fields: str) -> Any:
        """The JSON of a 200."""
        answer = self.ask("GET", target, *fields)
        assert answer.status == 200, answer
        return json.loads(answer.body)

    def delete(self, target: str) -> Any:
        """The JSON of a 200."""
        answer = self.ask("DELETE", target)
        assert answer.status == 200, answer
        return json.loads(answer.body)

    def problem(self, status: int, method: str, target: str, *fields: str, body: bytes = b"") -> Any:
        """The JSON of a refusal."""
        answer = self.ask(method, target, *fields, body=body)
        assert answer.status == status, answer
        assert answer.headers["content-type"] == "application/problem+json"
        return json.loads(answer.body)

    def batch(self, *ops: dict[str, Any], atomic: bool = False) -> list[dict[str, Any]]:
        """The results of a batch."""
        answer = self.ask("POST", "/v1/batch", body=json.dumps({"ops": ops, "atomic": atomic}).encode())
        assert answer.status == 200, answer
        results: list[dict[str, Any]] = json.loads(answer.body)["results"]
        assert len(results) == len(ops)
        return results

    def fill(self, keys: list[str], value: bytes = b"v") -> None:
        replies = self.run(self.client.execute([Put(key.encode(), value) for key in keys]))
        assert all(isinstance(reply, Done) for reply in replies)

    def keys(self, target: str) -> list[str]:
        """The keys of a list."""
        return [item["key"] for item in self.get(target)["items"]]


@contextmanager
def running_site(shards: int, max_value: int, hot: bool = False, pages: Pages | None = None) -> Iterator[Site]:
    """A site with an empty store of its own. `pages`: who may ask; None: everybody."""
    place = Path(tempfile.mkdtemp(prefix="kv-"))  # short: sockets live there
    store = new_store(place, shards=shards, sync="os", max_value=max_value)
    Manifest.create(store.data_dir).save(store.data_dir)
    with ExitStack() as stack:
        clock = place / "clock"
        clock.write_bytes(bytes(8))
        moved = stack.enter_context(moved_clock(str(clock)))
        for index in range(shards):
            stack.enter_context(shard(store, index, script=MOVES_CLOCK.format(path=str(clock))))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            made = Site(runner, store, moved, hot, pages)
            runner.run(made.start())
            try:
                yield made
            finally:  # to close a loop with open handles takes for ever
                runner.run(made.front.close())
                made.client.close()
    store.close()
    shutil.rmtree(place)
