"""Watches: the changes of keys as they come, through broken connections and restarts of the server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, Protocol, TypeVar

from kvserver.client.changes import Change, Envelope, State
from kvserver.client.core.feed.delivery import Delivery
from kvserver.client.core.feed.follow import (
    Connect,
    Disconnect,
    Follow,
    FollowScript,
    FollowStep,
    Pause,
    Read,
    RenewToken,
    Tell,
)
from kvserver.client.errors import KVError
from kvserver.client.transport.time_limit import time_limit

OnState = Callable[[State], object]
"""Told when a watch is connected, and when it lost its connection."""
SomeWatch = TypeVar("SomeWatch", bound="Watch")
SomeAsyncWatch = TypeVar("SomeAsyncWatch", bound="AsyncWatch")


class _Stream(Protocol):
    def read(self, timeout: float | None) -> bytes: ...

    def close(self) -> None: ...

    def leave(self) -> None: ...


class _AsyncStream(Protocol):
    async def read(self, timeout: float | None) -> bytes: ...

    def close(self) -> None: ...

    def leave(self) -> None: ...


class Watch:
    """Changes, one by one, for ever: `for change in watch`. Made by `Client.watch`.

    Entered, as in `with kv.watch(...) as watch`, it is connected: what is written from then on is sure to be seen. Of
    one thread; `close` may be called by any.
    """

    def __init__(
        self,
        follow: Follow,
        open_stream: Callable[[str], _Stream],
        renew_token: Callable[[], bool],
        on_state: OnState | None,
    ) -> None:
        self._follow, self._open_stream, self._renew_token, self._on_state = follow, open_stream, renew_token, on_state
        self._delivery = Delivery(follow.cursor)
        self._stream: _Stream | None = None
        self._closed = threading.Event()

    @property
    def cursor(self) -> str | None:
        """The place after the last message all of whose changes were yielded; None: no message has come.

        Keep it once you have handled the change, and give it to `watch(since=)` to continue there: then no change is
        missed, and only those of one message may come again.
        """
        return self._delivery.cursor

    def __enter__(self: SomeWatch) -> SomeWatch:
        if self._follow.cursor is not None:
            self._run(self._follow.connect())
        else:
            envelope = self.next_envelope()
            if envelope is not None:
                self._delivery.add(envelope)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Change]:
        return self

    def __next__(self) -> Change:
        while True:
            change = self._delivery.take()
            if change is not None:
                return change
            envelope = self.next_envelope()
            if envelope is None:
                raise StopIteration
            self._delivery.add(envelope)

    def envelopes(self) -> Iterator[Envelope]:
        """Yield whole messages. An atomic batch is in one of them; some have no change, but a newer cursor.

        A program that writes the changes and the cursor in one database transaction has each change exactly once.
        """
        rest = self._delivery.take_rest()
        if rest is not None:
            yield rest
        while (envelope := self.next_envelope()) is not None:
            self._delivery.cursor = envelope.cursor
            yield envelope

    def next_envelope(self, until: float | None = None) -> Envelope | None:
        """Return the next message; None: the watch is closed, or it is `until` by the clock."""
        return self._run(self._follow.next_envelope(until))

    def close(self) -> None:
        """End the watch: whoever waits for its next change gets `StopIteration`."""
        self._closed.set()
        self._disconnect()

    def _disconnect(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _run(self, script: FollowScript) -> Envelope | None:
        """Carry out the steps of a script, and return its result; None: the watch was closed."""
        result: Any = None
        try:
            while not self._closed.is_set():
                result = self._carry_out(script.send(result))
        except StopIteration as end:
            envelope: Envelope | None = end.value
            return envelope
        finally:
            script.close()
            if self._closed.is_set():
                self._disconnect()
        return None

    def _carry_out(self, step: FollowStep) -> Any:
        if isinstance(step, Connect):
            try:
                self._stream = self._open_stream(step.target)
            except KVError as error:
                return error
        elif isinstance(step, Read):
            stream = self._stream
            try:
                return stream.read(step.seconds) if stream is not None else b""
            except KVError as error:
                return error
        elif isinstance(step, Disconnect):
            if step.leave and self._stream is not None:
                self._stream.leave()
            self._disconnect()
        elif isinstance(step, Pause):
            self._closed.wait(step.seconds)
        elif isinstance(step, RenewToken):
            return self._renew_token()
        elif isinstance(step, Tell) and self._on_state is not None:
            self._on_state(step.state)
        return None


class AsyncWatch:
    """Changes, one by one, for ever: `async for change in watch`. Made by `AsyncClient.watch`.

    Entered, as in `async with kv.watch(...) as watch`, it is connected: what is written from then on is sure to be
    seen. Of one task; `close` may be called by any. To be cancelled while it waits, as by `asyncio.wait_for`, loses no
    change.
    """

    def __init__(
        self,
        follow: Follow,
        open_stream: Callable[[str], Awaitable[_AsyncStream]],
        renew_token: Callable[[], Awaitable[bool]],
        on_state: OnState | None,
    ) -> None:
        self._follow, self._open_stream, self._renew_token, self._on_state = follow, open_stream, renew_token, on_state
        self._delivery = Delivery(follow.cursor)
        self._stream: _AsyncStream | None = None
        self._closed = asyncio.Event()

    @property
    def cursor(self) -> str | None:
        """The place after the last message all of whose changes were yielded; None: no message has come.

        Keep it once you have handled the change, and give it to `watch(since=)` to continue there: then no change is
        missed, and only those of one message may come again.
        """
        return self._delivery.cursor

    async def __aenter__(self: SomeAsyncWatch) -> SomeAsyncWatch:
        if self._follow.cursor is not None:
            await self._run(self._follow.connect())
        else:
            envelope = await self.next_envelope()
            if envelope is not None:
                self._delivery.add(envelope)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[Change]:
        return self

    async def __anext__(self) -> Change:
        while True:
            change = self._delivery.take()
            if change is not None:
                return change
            envelope = await self.next_envelope()
            if envelope is None:
                raise StopAsyncIteration
            self._delivery.add(envelope)

    async def envelopes(self) -> AsyncIterator[Envelope]:
        """Yield whole messages. An atomic batch is in one of them; some have no change, but a newer cursor.

        A program that writes the changes and the cursor in one database transaction has each change exactly once.
        """
        rest = self._delivery.take_rest()
        if rest is not None:
            yield rest
        while (envelope := await self.next_envelope()) is not None:
            self._delivery.cursor = envelope.cursor
            yield envelope

    async def next_envelope(self, until: float | None = None) -> Envelope | None:
        """Return the next message; None: the watch is closed, or it is `until` by the clock."""
        return await self._run(self._follow.next_envelope(until))

    async def close(self) -> None:
        """End the watch: whoever waits for its next change gets `StopAsyncIteration`."""
        self._closed.set()
        self._disconnect()

    def _disconnect(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    async def _run(self, script: FollowScript) -> Envelope | None:
        """Carry out the steps of a script, and return its result; None: the watch was closed."""
        result: Any = None
        try:
            while not self._closed.is_set():
                result = await self._carry_out(script.send(result))
        except StopIteration as end:
            envelope: Envelope | None = end.value
            return envelope
        finally:
            script.close()
            if self._closed.is_set():
                self._disconnect()
        return None

    async def _carry_out(self, step: FollowStep) -> Any:
        if isinstance(step, Connect):
            try:
                self._stream = await self._open_stream(step.target)
            except KVError as error:
                return error
        elif isinstance(step, Read):
            stream = self._stream
            try:
                return await stream.read(step.seconds) if stream is not None else b""
            except KVError as error:
                return error
        elif isinstance(step, Disconnect):
            if step.leave and self._stream is not None:
                self._stream.leave()
            self._disconnect()
        elif isinstance(step, Pause):
            await self._pause(step.seconds)
        elif isinstance(step, RenewToken):
            return await self._renew_token()
        elif isinstance(step, Tell) and self._on_state is not None:
            self._on_state(step.state)
        return None

    async def _pause(self, seconds: float) -> None:
        try:
            async with time_limit(seconds):
                await self._closed.wait()
        except asyncio.TimeoutError:
            return
