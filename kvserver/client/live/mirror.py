"""Mirrors: a live, read-only copy of the keys below a prefix, that says how fresh it is."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

from kvserver.client.changes import Ended, Envelope, State
from kvserver.client.core.feed.copy import Copy, Difference
from kvserver.client.core.feed.follow import Follow
from kvserver.client.live.clock import elapsed_s
from kvserver.client.live.mirror_file import save_copy
from kvserver.client.live.watch import AsyncWatch, OnState, Watch
from kvserver.client.model import Entry
from kvserver.client.transport.time_limit import time_limit

V = TypeVar("V")
Freshness = Literal["starting", "live", "stale"]
"""Of a mirror: there is no state yet; connected, and heard of within 25 seconds; the state may be old."""
OnChange = Callable[[str, "Entry | None", "Entry | None"], object]
"""Told the key, what it held before, and what it holds now; None is nothing."""
AnyMirror = TypeVar("AnyMirror", bound="Mirror[Any]")
AnyAsyncMirror = TypeVar("AnyAsyncMirror", bound="AsyncMirror[Any]")


class MirrorBase(Mapping[str, V], Generic[V]):
    """What mirrors of threads and of tasks have in common: the mapping, and what is known of its freshness."""

    def __init__(
        self,
        prefix: str,
        follow: Follow,
        copy: Copy,
        decode: Callable[[Entry], V],
        on_change: OnChange | None,
        on_state: OnState | None,
        silence: float,
    ) -> None:
        self._prefix, self._follow, self._copy, self._decode = prefix, follow, copy, decode
        self._on_change, self._on_state, self._silence = on_change, on_state, silence
        self._lock = threading.RLock()
        self._decoded: dict[str, tuple[Entry, V]] = {}
        self._error: Exception | None = None
        self._closed = False
        self._revision = _revision_in(copy.cursor or "")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._prefix!r}: {len(self._copy.state)} keys, {self.state}>"

    # The mapping

    def __getitem__(self, key: str) -> V:
        with self._lock:
            entry = self._state()[key]
            known = self._decoded.get(key)
            if known is not None and known[0] is entry:
                return known[1]
            value = self._decode(entry)
            self._decoded[key] = (entry, value)
            return value

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter(list(self._state()))

    def __len__(self) -> int:
        with self._lock:
            return len(self._state())

    def __contains__(self, key: object) -> bool:
        with self._lock:
            return key in self._state()

    def copy(self) -> dict[str, V]:
        """Return all keys as of one moment, as a dict of your own. No atomic batch is in it by half.

        `dict(mirror)` reads key after key, and may be of several moments.
        """
        with self._lock:
            return {key: self[key] for key in self._state()}

    def entries(self) -> dict[str, Entry]:
        """Return the entries of all keys as of one moment, not decoded."""
        with self._lock:
            return dict(self._state())

    # Freshness

    @property
    def state(self) -> Freshness:
        """How fresh it is: `starting`, `live` or `stale`. A stale mirror can be read."""
        if self._copy.cursor is None:
            return "starting"
        ended = self._closed or self._error is not None
        if ended or not self._follow.is_connected or self._copy.is_building or not self._follow.has_heard:
            return "stale"
        return "live" if self.age < self._silence else "stale"

    @property
    def age(self) -> float:
        """Seconds since the server was last heard of; those since the beginning, if it was not yet."""
        return elapsed_s() - self._follow.heard_at

    @property
    def cursor(self) -> str | None:
        """The place in the history that the state is of; None: there is no state yet."""
        return self._copy.cursor

    @property
    def revision(self) -> int:
        """The highest revision that it has seen: a write with this revision, or a smaller one, is in it."""
        return self._revision

    def save(self, path: str | PathLike[str]) -> None:
        """Write the state to a file, for `mirror(load=path)` to begin with. Raises `OSError`, `RuntimeError`."""
        with self._lock:
            entries, cursor = list(self._state().values()), self._copy.cursor
        assert cursor is not None
        save_copy(Path(path), self._prefix, cursor, entries)

    # What is done by the thread or task that follows

    def _state(self) -> Mapping[str, Entry]:
        """Return the state. Raises what ended the mirror, `RuntimeError` if there is none yet."""
        if self._error is not None:
            raise self._error
        if self._copy.cursor is None:
            raise RuntimeError("the mirror has no state yet: enter it with `with`, or call wait_synced() first")
        return self._copy.state

    def _apply(self, envelope: Envelope) -> list[Difference]:
        """Apply an envelope as a whole, and return what became of the keys."""
        with self._lock:
            differences = self._copy.apply(envelope)
            for difference in differences:
                self._decoded.pop(difference.key, None)
            if not self._copy.is_building:
                seen = [getattr(change, "revision", 0) for change in envelope.changes]
                self._revision = max(self._revision, *seen, _revision_in(envelope.cursor))
        return differences

    def _tell_changes(self, differences: list[Difference]) -> None:
        if self._on_change is not None:
            for difference in differences:
                self._on_change(difference.key, difference.old, difference.new)

    def _note_error(self, error: Exception) -> None:
        self._error = error
        if self._on_state is not None:
            self._on_state(Ended(error))


def _revision_in(cursor: str) -> int:
    """Return the revision that a cursor is behind; 0 within a snapshot.

    To users a cursor is opaque. This client is of the server's own package, and knows.
    """
    parts = cursor.split(".")
    return int(parts[1]) if len(parts) == 2 and parts[1].isdigit() else 0


class Mirror(MirrorBase[V]):
    """A mirror for threads. Made by `Client.mirror`; a thread keeps it from `start`, or `with`, to `close`."""

    _watch: Watch | None = None

    def bind(self, watch: Watch) -> None:
        """Follow this watch."""
        self._watch = watch
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def note_state(self, state: State) -> None:
        """Wake up those who wait, and tell the user."""
        with self._changed:
            self._changed.notify_all()
        if self._on_state is not None:
            self._on_state(state)

    def start(self) -> None:
        """Begin to follow."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep, name=f"mirror {self._prefix}", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Follow no longer. The state can still be read."""
        self._closed = True
        if self._watch is not None:
            self._watch.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._changed:
            self._changed.notify_all()

    def __enter__(self: AnyMirror) -> AnyMirror:
        self.start()
        try:
            self._wait_for(lambda: self._copy.cursor is not None, None, "no state")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def wait_synced(self, timeout: float | None = None) -> None:
        """Wait until the mirror is live. Raises `TimeoutError`, and what ended the mirror."""
        self._wait_for(lambda: self.state == "live", timeout, "not live")

    def wait_revision(self, revision: int, timeout: float | None = None) -> None:
        """Wait until the mirror has the write that made `revision`, of a key below its prefix.

        Raises `TimeoutError`, and what ended the mirror.
        """
        self._wait_for(lambda: self._revision >= revision, timeout, f"revision {revision} has not come")

    def _wait_for(self, condition: Callable[[], bool], timeout: float | None, what: str) -> None:
        def is_over() -> bool:
            return self._error is not None or self._closed or condition()

        with self._changed:
            self._changed.wait_for(is_over, timeout)
        if self._error is not None:
            raise self._error
        if not condition():
            raise RuntimeError("the mirror is closed") if self._closed else TimeoutError(f"{what} after {timeout:g} s")

    def _keep(self) -> None:
        assert self._watch is not None
        try:
            for envelope in self._watch.envelopes():
                differences = self._apply(envelope)
                with self._changed:
                    self._changed.notify_all()
                self._tell_changes(differences)
        except Exception as error:
            if not self._closed:
                self._note_error(error)
        with self._changed:
            self._changed.notify_all()


class AsyncMirror(MirrorBase[V]):
    """A mirror for tasks. Made by `AsyncClient.mirror`; a task keeps it from `start`, or `async with`, to `close`."""

    _watch: AsyncWatch | None = None

    def bind(self, watch: AsyncWatch) -> None:
        """Follow this watch."""
        self._watch = watch
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def note_state(self, state: State) -> None:
        """Wake up those who wait, and tell the user."""
        self._notify()
        if self._on_state is not None:
            self._on_state(state)

    async def start(self) -> None:
        """Begin to follow."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name=f"mirror {self._prefix}")

    async def close(self) -> None:
        """Follow no longer. The state can still be read."""
        self._closed = True
        if self._watch is not None:
            await self._watch.close()
        if self._task is not None and self._task is not asyncio.current_task():
            await self._task
        self._notify()

    async def __aenter__(self: AnyAsyncMirror) -> AnyAsyncMirror:
        await self.start()
        try:
            await self._wait_for(lambda: self._copy.cursor is not None, None, "no state")
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def wait_synced(self, timeout: float | None = None) -> None:
        """Wait until the mirror is live. Raises `TimeoutError`, and what ended the mirror."""
        await self._wait_for(lambda: self.state == "live", timeout, "not live")

    async def wait_revision(self, revision: int, timeout: float | None = None) -> None:
        """Wait until the mirror has the write that made `revision`, of a key below its prefix.

        Raises `TimeoutError`, and what ended the mirror.
        """
        await self._wait_for(lambda: self._revision >= revision, timeout, f"revision {revision} has not come")

    async def _wait_for(self, condition: Callable[[], bool], timeout: float | None, what: str) -> None:
        ends_at = float("inf") if timeout is None else elapsed_s() + timeout
        while self._error is None and not self._closed and not condition():
            left = ends_at - elapsed_s()
            if left <= 0:
                raise TimeoutError(f"{what} after {timeout:g} s")
            with contextlib.suppress(asyncio.TimeoutError):
                async with time_limit(None if timeout is None else left):
                    await self._changed.wait()
        if self._error is not None:
            raise self._error
        if not condition():
            raise RuntimeError("the mirror is closed")

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _keep(self) -> None:
        assert self._watch is not None
        try:
            async for envelope in self._watch.envelopes():
                differences = self._apply(envelope)
                self._notify()
                self._tell_changes(differences)
        except Exception as error:
            if not self._closed:
                self._note_error(error)
        self._notify()
