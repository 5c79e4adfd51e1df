"""`AsyncClient`: the verbs of the store for tasks. Each verb is a call or a script of `core`, carried out here."""

from __future__ import annotations

import asyncio
import inspect
import random
import secrets
import ssl as tls
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from kvserver.client.address import ENVIRONMENT, find_address, find_proxy, find_token
from kvserver.client.core import policy, single
from kvserver.client.core.calls import Attempt, Await, Call, Renew, Script, Sleep, Step
from kvserver.client.core.single import Content
from kvserver.client.errors import KVError
from kvserver.client.model import UNSET, Entry, Expires, Options, Ttl, Unset, Value, Written
from kvserver.client.session import AsyncStream, Session

T = TypeVar("T")
OnRetry = Callable[[KVError, int, float], None]
"""Told before a repeat: the error, how often the request was sent, and in how many seconds it is sent again."""


class AsyncClient:
    """A connection pool to one server, for the tasks of one event loop.

    `url`: else KVSERVER_URL, else http://localhost:8080. `token`: a text, or a function that returns one
    (or a coroutine) and is asked again when the server refuses it; else KVSERVER_TOKEN. `timeout`: seconds for one
    answer. `patience`: seconds during which a failed request is repeated where that is safe, 0 for never. `idempotency`: send an Idempotency-Key with each
    write, so that every write may be repeated. `connections`: most at a time; `idle`: seconds after which a resting one
    is not used again. `ssl`: for https. `proxy`: a URL, None for none, or as the environment says. `prefix`: stands
    before every key. Raises `ValueError` for what is no URL or token.

    Every method raises `KVError`: `Refused` or, for a write that may have been done, `OutcomeUnknown`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | Callable[[], str | Awaitable[str]] | None = None,
        timeout: float = 10.0,
        patience: float = 5.0,
        idempotency: bool = True,
        connections: int = 32,
        idle: float = 30.0,
        ssl: tls.SSLContext | None = None,
        proxy: str | None = ENVIRONMENT,
        prefix: str = "",
        on_retry: OnRetry | None = None,
    ) -> None:
        address = find_address(url)
        found = token if callable(token) else find_token(token)
        self._session = Session(address, found, connections, idle, ssl, find_proxy(address, proxy))
        self._options = Options(timeout, patience, idempotency)
        self._prefix = prefix
        self._on_retry = on_retry
        self._owns_session = True

    def __repr__(self) -> str:
        below = f", prefix={self._prefix!r}" if self._prefix else ""
        return f"{type(self).__name__}({self._session.address.url!r}{below})"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. What `within` and `with_options` made shares them, and closes nothing itself."""
        if self._owns_session:
            await self._session.close()

    # One key.

    async def get(self, key: str, *, range: tuple[int, int | None] | None = None) -> Entry | None:
        """Return the value of a key, or None if there is no such key.

        `range`: the first and the last byte that are wanted, both included; None as the last means the end.
        """
        return await self._call(single.get(self._prefix, key, range))

    async def put(
        self,
        key: str,
        value: Value | Unset = UNSET,
        *,
        json: object = UNSET,
        content_type: str | None = None,
        ttl: Ttl | None = None,
        expires: Expires | None = None,
        if_revision: int | None = None,
        idempotent: bool = False,
    ) -> Written:
        """Store a value, whether the key was there or not."""
        content = Content.of(value, json, content_type, ttl, expires)
        return await self._call(single.put(self._prefix, key, content, if_revision, idempotent))

    async def delete(self, key: str, *, if_revision: int | None = None) -> bool:
        """Delete a key; return False if there was none."""
        return await self._call(single.delete(self._prefix, key, if_revision))

    # How verbs are carried out.

    async def _call(self, call: Call[T]) -> T:
        """Send a call, repeat it by the policy, and return what its answer says."""
        return await self._run(policy.perform(call, self._options, secrets.token_urlsafe(16)))

    async def _run(self, script: Script[T]) -> T:
        """Carry out the steps of a script, and return its result."""
        try:
            step = next(script)
            while True:
                resume = await self._outcome(script, step)
                step = resume()
        except StopIteration as end:
            value: T = end.value
            return value
        finally:
            script.close()

    async def _outcome(self, script: Script[Any], step: Step) -> Callable[[], Step]:
        """Carry out a step, and return the function that tells its outcome to the script and returns the next step."""
        try:
            result = await self._carry_out(step)
        except Exception as error:
            return partial(script.throw, error)
        return partial(script.send, result)

    async def _carry_out(self, step: Step) -> Any:
        if isinstance(step, Attempt):
            return await self._session.attempt(step, self._options.timeout)
        if isinstance(step, Call):
            return await self._call(step)
        if isinstance(step, Sleep):
            return await self._sleep(step)
        if isinstance(step, Renew):
            return await self._session.renew_token()
        if isinstance(step, Await):
            result = step.function(*step.arguments)
            return await result if inspect.isawaitable(result) else result
        raise TypeError(f"{step!r} is no step of a script")

    async def _sleep(self, step: Sleep) -> None:
        seconds = min(max(random.uniform(0, step.jitter), step.least), step.most)
        if step.error is not None and self._on_retry is not None:
            self._on_retry(step.error, step.attempts, seconds)
        await asyncio.sleep(seconds)

    async def _open_stream(self, call: Call[Any], read_timeout: float) -> AsyncStream:
        """Send a call once, and return the body of its answer, which has no end yet. Raises `KVError`."""
        return await self._session.open_stream(call, read_timeout)
