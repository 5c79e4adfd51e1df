"""Leases: keys that stay while their owner lives, then expire. For presence, registrations, heartbeats."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Final, TypeVar

from kvserver.client.core import single
from kvserver.client.core.single import Content
from kvserver.client.core.tenure import RENEWALS, Tenure
from kvserver.client.errors import KVError
from kvserver.client.live.clock import elapsed_s
from kvserver.client.live.lock import RunScript
from kvserver.client.model import UNSET, Unset, Value, Written
from kvserver.client.transport.time_limit import time_limit

OnLost = Callable[[str], object]
"""Told the key that a lease lost: it was changed or deleted by another, or could not be renewed in time."""
AnyLease = TypeVar("AnyLease", bound="Lease")
AnyAsyncLease = TypeVar("AnyAsyncLease", bound="AsyncLease")

_AGAIN_S: Final = 0.1


class LeaseBase:
    """What leases of threads and of tasks have in common."""

    def __init__(self, prefix: str, ttl: float, on_lost: OnLost | None) -> None:
        self._prefix, self._ttl, self._on_lost = prefix, ttl, on_lost
        self._tenures: dict[str, Tenure] = {}
        self._closed = False
        self._pid = os.getpid()

    @property
    def keys(self) -> list[str]:
        """The keys that this process keeps; none in a child of it."""
        if self._pid != os.getpid():
            return []
        return [key for key, tenure in list(self._tenures.items()) if tenure.held]

    def _put(self, key: str, content: Content) -> Generator[Any, Any, Written]:
        """Return the script that puts a key and keeps it."""
        if self._closed:
            raise RuntimeError("the lease is closed")
        if self._pid != os.getpid():
            raise RuntimeError("the lease is another process's; make one after the fork")
        tenure = Tenure(self._prefix, key, self._ttl, content, elapsed_s)
        self._tenures.pop(key, None)  # or its renewal would meet what is being written
        sent_at = elapsed_s()
        written: Written = yield single.put(self._prefix, key, content)
        tenure.begin(written.revision, sent_at)
        self._tenures[key] = tenure
        return written

    def _renew_all(self) -> Generator[Any, Any, bool]:
        """Return the script that renews every key; False if one could not be, and is still held."""
        done = True
        for key, tenure in list(self._tenures.items()):
            try:
                renewed = yield from tenure.renew()
            except KVError:
                renewed = tenure.held
                done = False
            if not renewed and self._tenures.get(key) is tenure:
                del self._tenures[key]
                if self._on_lost is not None:
                    self._on_lost(key)
        return done

    def _delete_all(self) -> Generator[Any, Any, None]:
        for tenure in list(self._tenures.values()):
            with contextlib.suppress(KVError):
                yield from tenure.release()
        self._tenures.clear()


def _content(value: Value | Unset, json: object, content_type: str | None, ttl: float) -> Content:
    return Content.of(value, json, content_type, ttl, None)


class Lease(LeaseBase):
    """A lease for threads. Made by `Client.lease`.

    A thread renews its keys three times in their time to live. `with` ends that: they then expire by themselves.
    """

    def __init__(self, run: RunScript, prefix: str, ttl: float, on_lost: OnLost | None) -> None:
        super().__init__(prefix, ttl, on_lost)
        self._run = run
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._keeper: threading.Thread | None = None

    def put(
        self, key: str, value: Value | Unset = UNSET, *, json: object = UNSET, content_type: str | None = None
    ) -> Written:
        """Put a key, and keep it until the lease ends. Raises `KVError`, `RuntimeError` once it is closed."""
        written: Written = self._run(self._put(key, _content(value, json, content_type, self._ttl)))
        with self._lock:
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, name="lease", daemon=True)
                self._keeper.start()
        return written

    def close(self) -> None:
        """Renew the keys no longer."""
        self._closed = True
        self._ended.set()

    def revoke(self) -> None:
        """Close the lease, and delete its keys that no other client has changed. A forked child deletes none."""
        self.close()
        if self._pid != os.getpid():
            return
        if self._keeper is not None:
            self._keeper.join()
        self._run(self._delete_all())

    def __enter__(self: AnyLease) -> AnyLease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _keep(self) -> None:
        pause = self._ttl / RENEWALS
        with contextlib.suppress(RuntimeError):  # once the client is closed
            while not self._ended.wait(pause):
                pause = self._ttl / RENEWALS if self._run(self._renew_all()) else _AGAIN_S


class AsyncLease(LeaseBase):
    """A lease for tasks. Made by `AsyncClient.lease`.

    A task renews its keys three times in their time to live. `async with` ends that: they then expire by themselves.
    """

    def __init__(
        self,
        run: Callable[[Generator[Any, Any, Any]], Awaitable[Any]],
        prefix: str,
        ttl: float,
        on_lost: OnLost | None,
    ) -> None:
        super().__init__(prefix, ttl, on_lost)
        self._run = run
        self._ended = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    async def put(
        self, key: str, value: Value | Unset = UNSET, *, json: object = UNSET, content_type: str | None = None
    ) -> Written:
        """Put a key, and keep it until the lease ends. Raises `KVError`, `RuntimeError` once it is closed."""
        written: Written = await self._run(self._put(key, _content(value, json, content_type, self._ttl)))
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="lease")
        return written

    async def close(self) -> None:
        """Renew the keys no longer."""
        self._closed = True
        self._ended.set()

    async def revoke(self) -> None:
        """Close the lease, and delete its keys that no other client has changed. A forked child deletes none."""
        await self.close()
        if self._pid != os.getpid():
            return
        if self._keeper is not None:
            await self._keeper
        await self._run(self._delete_all())

    async def __aenter__(self: AnyAsyncLease) -> AnyAsyncLease:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _keep(self) -> None:
        pause = self._ttl / RENEWALS
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                async with time_limit(pause):
                    await self._ended.wait()
            if self._ended.is_set():
                return
            try:
                pause = self._ttl / RENEWALS if await self._run(self._renew_all()) else _AGAIN_S
            except RuntimeError:  # the client is closed
                return
