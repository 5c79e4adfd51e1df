"""Locks: a key that one holds at a time, and that expires when its holder does not renew it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import threading
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Final, TypeVar

from kvserver.client.core.single import Content
from kvserver.client.core.tenure import RENEWALS, Tenure
from kvserver.client.core.values import body_of, ttl_text
from kvserver.client.errors import KVError, LockLost
from kvserver.client.live.clock import elapsed_s
from kvserver.client.model import UNSET, Value
from kvserver.client.transport.time_limit import time_limit

RunScript = Callable[[Generator[Any, Any, Any]], Any]
"""Carries out a script."""
AnyLock = TypeVar("AnyLock", bound="Lock")
AnyAsyncLock = TypeVar("AnyAsyncLock", bound="AsyncLock")

_AGAIN_S: Final = 0.1
"""Between attempts to renew that failed."""


class LockBase:
    """What locks of threads and of tasks have in common."""

    def __init__(self, prefix: str, name: str, ttl: float, value: Value | None, timeout: float | None) -> None:
        self.name, self._prefix, self._ttl, self._value, self._timeout = name, prefix, ttl, value, timeout
        self.owner = ""
        self._pid = os.getpid()
        self._tenure = self._new_tenure()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, held={self.held})"

    @property
    def held(self) -> bool:
        """Whether this process certainly holds the lock at this moment, by this machine's clock, without a request."""
        return self._tenure.held and self._is_own

    @property
    def _is_own(self) -> bool:
        """Whether this process acquired it: a child of `fork` has a copy, but the lock stays its parent's."""
        return self._pid == os.getpid()

    @property
    def fence(self) -> int:
        """A number that grows from one holder of the lock to the next; 0 if it was never acquired.

        Hand it to what the lock protects, which refuses what comes with a smaller one than it has seen.
        """
        return self._tenure.fence

    def _new_tenure(self) -> Tenure:
        """Return the next tenure, which its content type tells from others."""
        self.owner = secrets.token_hex(16)
        body, content_type = body_of(self.owner if self._value is None else self._value, UNSET, None)
        content = Content(body, f"{content_type}; owner={self.owner}", ttl_text(self._ttl), None)
        return Tenure(self._prefix, self.name, self._ttl, content, elapsed_s)

    def _ends_at(self, timeout: float | None) -> float:
        return float("inf") if timeout is None else elapsed_s() + timeout

    def _taken(self) -> TimeoutError:
        return TimeoutError(f"another holds the lock {self.name!r}; waited for {self._timeout:g} s")

    def _gone(self) -> LockLost:
        why = f"was not renewed within {self._ttl:g} s" if self._tenure.expired else "was deleted or taken by another"
        return LockLost(f"{self.name!r} {why}")


class Loss:
    """Tells threads that the lock was lost."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock

    def is_set(self) -> bool:
        """Return whether the lock was held, and is not any more, without a release."""
        return self._lock._is_lost

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the lock is lost, or for `timeout` seconds; return whether it is lost."""
        ends_at = float("inf") if timeout is None else elapsed_s() + timeout
        while not self.is_set() and (left := ends_at - elapsed_s()) > 0:
            self._lock._wait_for_end(left)
            if self._lock._is_over:
                break
        return self.is_set()


class Lock(LockBase):
    """A lock for threads. Made by `Client.lock`.

    A thread renews it three times in its time to live. If that fails for too long, it is lost: `held` is false, and
    `lost` is set. `with` raises `TimeoutError` if it is not acquired in time, and `LockLost` at its end if it was lost.
    """

    def __init__(
        self,
        run: RunScript,
        wait_until_gone: Callable[[str, float], object],
        prefix: str,
        name: str,
        ttl: float,
        value: Value | None,
        timeout: float | None,
    ) -> None:
        super().__init__(prefix, name, ttl, value, timeout)
        self._run, self._wait_until_gone = run, wait_until_gone
        self._ended = threading.Event()
        self._released = False

    @property
    def lost(self) -> Loss:
        """Tells that the lock was lost: `lock.lost.is_set()`, `lock.lost.wait(timeout)`."""
        return Loss(self)

    def acquire(self, timeout: float | None = None) -> bool:
        """Wait until the lock is free, for at most `timeout` seconds, and take it; False if it was not free in time.

        Raises `KVError`, and `RuntimeError` for a lock that is held already.
        """
        if self.held:
            raise RuntimeError(f"the lock {self.name!r} is held already")
        tenure = self._new_tenure()
        if not self._run(tenure.acquire(self._wait_until_gone, self._ends_at(timeout))):
            return False
        self._tenure, self._ended, self._released = tenure, threading.Event(), False
        self._pid = os.getpid()
        threading.Thread(target=self._keep, args=[tenure, self._ended], name=f"lock {self.name}", daemon=True).start()
        return True

    def release(self) -> bool:
        """Give the lock to others; False if it was lost before. Without a server, it is free when it expires.

        In a child of the process that holds it, it does nothing and returns False.
        """
        if not self._is_own:
            return False
        held = self.held
        self._released = True
        self._ended.set()
        if self.fence:
            with contextlib.suppress(KVError):
                self._run(self._tenure.release())
        return held

    def __enter__(self: AnyLock) -> AnyLock:
        if not self.acquire(self._timeout):
            raise self._taken()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.release() and kind is None and self._is_own:
            raise self._gone()

    @property
    def _is_lost(self) -> bool:
        return self._tenure.lost and self._is_own and not self._released

    @property
    def _is_over(self) -> bool:
        return self._released or not self.fence or not self._is_own

    def _wait_for_end(self, seconds: float) -> None:
        self._ended.wait(min(seconds, self._tenure.seconds_left()))

    def _renew(self, tenure: Tenure) -> float:
        """Renew the lock, and return in how many seconds to do so again."""
        try:
            renewed = self._run(tenure.renew())
        except KVError:
            return _AGAIN_S
        except RuntimeError:  # the client was closed: nothing can be renewed
            return self._ttl
        return self._ttl / RENEWALS if renewed else 0.0

    def _keep(self, tenure: Tenure, ended: threading.Event) -> None:
        """Renew the lock until it is released or lost."""
        pause = self._ttl / RENEWALS
        while not ended.wait(min(pause, tenure.seconds_left())) and tenure.held:
            pause = self._renew(tenure)
        ended.set()


class AsyncLoss:
    """Tells tasks that the lock was lost."""

    def __init__(self, lock: AsyncLock) -> None:
        self._lock = lock

    def is_set(self) -> bool:
        """Return whether the lock was held, and is not any more, without a release."""
        return self._lock._is_lost

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until the lock is lost, or for `timeout` seconds; return whether it is lost."""
        ends_at = float("inf") if timeout is None else elapsed_s() + timeout
        while not self.is_set() and (left := ends_at - elapsed_s()) > 0:
            await self._lock._wait_for_end(left)
            if self._lock._is_over:
                break
        return self.is_set()


class AsyncLock(LockBase):
    """A lock for tasks. Made by `AsyncClient.lock`.

    A task renews it three times in its time to live. If that fails for too long, it is lost: `held` is false, and
    `lost` is set. `async with` raises `TimeoutError` if it is not acquired in time, and `LockLost` at its end if it was
    lost.
    """

    def __init__(
        self,
        run: Callable[[Generator[Any, Any, Any]], Awaitable[Any]],
        wait_until_gone: Callable[[str, float], Awaitable[object]],
        prefix: str,
        name: str,
        ttl: float,
        value: Value | None,
        timeout: float | None,
    ) -> None:
        super().__init__(prefix, name, ttl, value, timeout)
        self._run, self._wait_until_gone = run, wait_until_gone
        self._ended = asyncio.Event()
        self._released = False
        self._keeper: asyncio.Task[None] | None = None

    @property
    def lost(self) -> AsyncLoss:
        """Tells that the lock was lost: `lock.lost.is_set()`, `await lock.lost.wait(timeout)`."""
        return AsyncLoss(self)

    async def acquire(self, timeout: float | None = None) -> bool:
        """Wait until the lock is free, for at most `timeout` seconds, and take it; False if it was not free in time.

        Raises `KVError`, and `RuntimeError` for a lock that is held already.
        """
        if self.held:
            raise RuntimeError(f"the lock {self.name!r} is held already")
        tenure = self._new_tenure()
        if not await self._run(tenure.acquire(self._wait_until_gone, self._ends_at(timeout))):
            return False
        self._tenure, self._ended, self._released = tenure, asyncio.Event(), False
        self._pid = os.getpid()
        self._keeper = asyncio.create_task(self._keep(tenure, self._ended), name=f"lock {self.name}")
        return True

    async def release(self) -> bool:
        """Give the lock to others; False if it was lost before. Without a server, it is free when it expires.

        In a child of the process that holds it, it does nothing and returns False.
        """
        if not self._is_own:
            return False
        held = self.held
        self._released = True
        self._ended.set()
        if self.fence:
            with contextlib.suppress(KVError):
                await self._run(self._tenure.release())
        return held

    async def __aenter__(self: AnyAsyncLock) -> AnyAsyncLock:
        if not await self.acquire(self._timeout):
            raise self._taken()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not await self.release() and kind is None and self._is_own:
            raise self._gone()

    @property
    def _is_lost(self) -> bool:
        return self._tenure.lost and self._is_own and not self._released

    @property
    def _is_over(self) -> bool:
        return self._released or not self.fence or not self._is_own

    async def _wait_for_end(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            async with time_limit(min(seconds, self._tenure.seconds_left())):
                await self._ended.wait()

    async def _keep(self, tenure: Tenure, ended: asyncio.Event) -> None:
        """Renew the lock until it is released or lost."""
        pause = self._ttl / RENEWALS
        while tenure.held:
            with contextlib.suppress(asyncio.TimeoutError):
                async with time_limit(min(pause, tenure.seconds_left())):
                    await ended.wait()
            if ended.is_set():
                return
            try:
                renewed = await self._run(tenure.renew())
            except KVError:
                pause = _AGAIN_S
            except RuntimeError:  # the client was closed: nothing can be renewed
                pause = self._ttl
            else:
                pause = self._ttl / RENEWALS if renewed else 0.0
        ended.set()
