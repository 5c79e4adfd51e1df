"""All keys below a prefix, read page by page while they are taken: `Scan` for threads, `AsyncScan` for tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from kvserver.client.core.calls import Call
from kvserver.client.core.lists import Pages
from kvserver.client.model import Item, Page


class Scan(Iterator[Item]):
    """An iterator over items. It holds no connection between two pages, so that it may be left at any place."""

    def __init__(self, pages: Pages, read: Callable[[Call[Page]], Page]) -> None:
        self._pages, self._read = pages, read

    @property
    def cursor(self) -> str:
        """Where the feed stood before the first page was read, "" until then: for `watch(since=)`."""
        return self._pages.cursor

    def __next__(self) -> Item:
        while not self._pages.items:
            call = self._pages.next_call()
            if call is None:
                raise StopIteration
            self._pages.add(self._read(call))
        return self._pages.items.popleft()


class AsyncScan(AsyncIterator[Item]):
    """An iterator over items. It holds no connection between two pages, so that it may be left at any place."""

    def __init__(self, pages: Pages, read: Callable[[Call[Page]], Awaitable[Page]]) -> None:
        self._pages, self._read = pages, read

    @property
    def cursor(self) -> str:
        """Where the feed stood before the first page was read, "" until then: for `watch(since=)`."""
        return self._pages.cursor

    async def __anext__(self) -> Item:
        while not self._pages.items:
            call = self._pages.next_call()
            if call is None:
                raise StopAsyncIteration
            self._pages.add(await self._read(call))
        return self._pages.items.popleft()
