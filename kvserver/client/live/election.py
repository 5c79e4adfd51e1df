"""Elections: one of several candidates leads, and every client can see which. The key is that of a lock."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator

from kvserver.client.core.feed.leaders import Leaders
from kvserver.client.live.lock import AsyncLock, Lock
from kvserver.client.live.watch import AsyncWatch, Watch
from kvserver.client.model import Entry, Value


class Election:
    """An election for threads. Made by `Client.election`."""

    def __init__(
        self, name: str, make_lock: Callable[[Value, float | None], Lock], make_watch: Callable[[], Watch]
    ) -> None:
        self.name, self._make_lock, self._make_watch = name, make_lock, make_watch

    def campaign(self, value: Value, *, timeout: float | None = None) -> Lock:
        """Return the lock whose holder leads: `with election.campaign("host-1") as lead`. All can see its `value`."""
        return self._make_lock(value, timeout)

    def observe(self) -> Generator[Entry | None, None, None]:
        """Yield who leads now, and then each next leader; None while there is none. Raises as `watch` does."""
        leaders = Leaders(self.name)
        with self._make_watch() as watch:
            for envelope in watch.envelopes():
                yield from leaders.of(envelope)


class AsyncElection:
    """An election for tasks. Made by `AsyncClient.election`."""

    def __init__(
        self, name: str, make_lock: Callable[[Value, float | None], AsyncLock], make_watch: Callable[[], AsyncWatch]
    ) -> None:
        self.name, self._make_lock, self._make_watch = name, make_lock, make_watch

    def campaign(self, value: Value, *, timeout: float | None = None) -> AsyncLock:
        """Return the lock whose holder leads: `async with election.campaign("host-1") as lead`. All see its `value`."""
        return self._make_lock(value, timeout)

    async def observe(self) -> AsyncGenerator[Entry | None, None]:
        """Yield who leads now, and then each next leader; None while there is none. Raises as `watch` does."""
        leaders = Leaders(self.name)
        async with self._make_watch() as watch:
            async for envelope in watch.envelopes():
                for leader in leaders.of(envelope):
                    yield leader
