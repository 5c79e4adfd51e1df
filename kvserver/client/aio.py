"""`AsyncClient`: the verbs of the store for tasks. Each verb is a call or a script of `core`, carried out here."""

from __future__ import annotations

import asyncio
import inspect
import random
import secrets
import ssl as tls
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from copy import copy
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from kvserver.client.atomics import AsyncAtomic
from kvserver.client.core import batches, lists, policy, scripts, service, single
from kvserver.client.core.batches import Op
from kvserver.client.core.calls import Attempt, Await, Call, Renew, Script, Sleep, Step
from kvserver.client.core.lists import Delimiter
from kvserver.client.core.single import Content
from kvserver.client.errors import KVError, Result
from kvserver.client.live.async_verbs import AsyncLiveVerbs
from kvserver.client.model import (
    KEEP,
    UNSET,
    Deleted,
    Entry,
    Exchanged,
    Expires,
    Grant,
    Identity,
    Loaded,
    Meta,
    Next,
    Options,
    Page,
    Patched,
    Status,
    Ticket,
    TicketFor,
    Ttl,
    Unchanged,
    Unset,
    Value,
    Written,
)
from kvserver.client.scans import AsyncScan
from kvserver.client.transport.address import ENVIRONMENT, find_token
from kvserver.client.transport.servers import find_servers
from kvserver.client.transport.session import AsyncStream, Session

T = TypeVar("T")
OnRetry = Callable[[KVError, int, float], None]
"""Called before a repeat: the error, how often the request was sent, and in how many seconds it is sent again."""


class AsyncClient(AsyncLiveVerbs):
    """A connection pool to one server, for the tasks of one event loop.

    Args:
        url: a URL, or the URLs of the servers of one cluster: a list, or with commas between them. The client uses the
            first until it fails, then the next. Default: KVSERVER_URL, else http://localhost:8080.
        token: a text, or a function (also a coroutine function) that returns one and is called
            again when the server refuses it. Default: KVSERVER_TOKEN.
        timeout: seconds for one answer.
        patience: seconds during which a failed request is repeated if that is safe; 0: never.
        idempotency: send an Idempotency-Key with each write, so that every write may be repeated.
        connections: most connections at a time.
        idle: seconds after which an idle connection is not used again.
        ssl: for https.
        proxy: a URL; None: no proxy. Default: what the environment says.
        prefix: is put before every key.
        silence: seconds without a byte after which the connection of a watch is dead; the server sends something every
            10 seconds.

    Raises `ValueError` for a malformed URL, token, time or number.

    Every method raises `KVError`: `Refused` or, for a write that may have been done, `OutcomeUnknown`.
    """

    def __init__(
        self,
        url: str | Iterable[str] | None = None,
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
        silence: float = 25.0,
        on_retry: OnRetry | None = None,
    ) -> None:
        servers = find_servers(url, proxy)
        found = token if callable(token) else find_token(token)
        self._options = Options(timeout, patience, idempotency)
        if connections < 1:
            raise ValueError(f"connections is 1 or more, not {connections}")
        self._session = Session(servers, found, connections, idle, ssl)
        self._prefix = prefix
        self._silence = silence
        self._servers = len(servers)
        self._on_retry = on_retry
        self._owns_session = True

    def __repr__(self) -> str:
        below = f", prefix={self._prefix!r}" if self._prefix else ""
        return f"{type(self).__name__}({self._session.servers.urls!r}{below})"

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

    async def head(self, key: str) -> Meta | None:
        """Return what is known of a key without its value, or None if there is no such key."""
        return await self._call(single.head(self._prefix, key))

    async def get_if_changed(self, key: str, revision: int) -> Entry | Unchanged | None:
        """Return the value of a key, `UNCHANGED` if it still has this revision, or None if it is absent."""
        return await self._call(single.get_if_changed(self._prefix, key, revision))

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

    async def create(
        self,
        key: str,
        value: Value | Unset = UNSET,
        *,
        json: object = UNSET,
        content_type: str | None = None,
        ttl: Ttl | None = None,
        expires: Expires | None = None,
    ) -> Written:
        """Store a value under a key that is absent. Raises `Exists` with the `revision` of what is there."""
        return await self._call(single.create(self._prefix, key, Content.of(value, json, content_type, ttl, expires)))

    async def exchange(
        self,
        key: str,
        value: Value | Unset = UNSET,
        *,
        json: object = UNSET,
        content_type: str | None = None,
        ttl: Ttl | None = None,
        expires: Expires | None = None,
        if_revision: int | None = None,
    ) -> Exchanged:
        """Store a value and return the one that was there before."""
        content = Content.of(value, json, content_type, ttl, expires)
        return await self._call(single.exchange(self._prefix, key, content, if_revision))

    async def update(
        self,
        key: str,
        change: Callable[[Entry | None], object],
        *,
        json: bool = False,
        ttl: Ttl | Next | None = KEEP,
        tries: int = 64,
        idempotent: bool = False,
    ) -> Entry | None:
        """Let `change` make a new value of what the key holds, and store it if the key has not changed since.

        `change` gets the entry, or None, and returns a value (with `json`, anything that JSON can say), `KEEP` to leave
        the key as it is, or `DELETE`. It may be a coroutine function. It is called again after a conflict, for at most
        `tries` times in all; then `PreconditionFailed` is raised. The content type is kept, and so is the expiry unless
        `ttl` is given (None: it never expires). Returns the entry afterwards.
        """
        return await self._run(scripts.update(self._prefix, key, change, json, ttl, tries, idempotent))

    async def patch(self, key: str, merge: object, *, if_revision: int | None = None) -> Patched:
        """Merge a JSON merge patch (RFC 7396) into a value, which must be JSON; an absent key counts as {}.

        Raises `NotJson`, and `AnswerWithheld` where it was done but the token may not read the result.
        """
        return await self._call(single.patch(self._prefix, key, merge, if_revision))

    async def incr(
        self, key: str, by: int = 1, *, ttl_if_new: Ttl | None = None, if_revision: int | None = None
    ) -> int:
        """Add to a whole number and return the sum; an absent key counts as 0, and then lives for `ttl_if_new`.

        Raises `NotAnInteger`, `Overflow` (beyond 64 bits), and `AnswerWithheld` where it was done but the token may not
        read the result.
        """
        return await self._call(single.incr(self._prefix, key, by, ttl_if_new, if_revision))

    async def touch(
        self,
        key: str,
        *,
        ttl: Ttl | None = None,
        expires: Expires | None = None,
        persist: bool = False,
        if_revision: int | None = None,
    ) -> int:
        """Change the expiry of a key alone (`persist`: to never), and return its new revision. Raises `NotFound`."""
        return await self._call(single.touch(self._prefix, key, ttl, expires, persist, if_revision))

    async def delete(self, key: str, *, if_revision: int | None = None) -> bool:
        """Delete a key; return False if there was none."""
        return await self._call(single.delete(self._prefix, key, if_revision))

    # Many keys.

    async def get_many(self, keys: Iterable[str]) -> dict[str, Entry | None]:
        """Return the values of many keys by key; None for those that are absent."""
        return await self._run(scripts.get_many(self._prefix, keys))

    async def put_many(self, pairs: Mapping[str, Value] | Iterable[tuple[str, Value]], *, lanes: int = 4) -> Loaded:
        """Store many values, in batches of which `lanes` are under way at a time.

        If a key occurs twice, either value may stay. Raises the first error; what was stored until then stays.
        """
        remaining = batches.divide(pairs.items() if isinstance(pairs, Mapping) else pairs)

        async def carry() -> int:
            stored = 0
            for ops in remaining:
                stored += len([result.check() for result in await self.batch(ops)])
            return stored

        tasks = [asyncio.ensure_future(carry()) for _ in range(lanes)]
        try:
            return Loaded(sum(await asyncio.gather(*tasks)))
        finally:
            for task in tasks:
                task.cancel()

    async def page(
        self,
        prefix: str = "",
        *,
        after: str | None = None,
        before: str | None = None,
        limit: int = 100,
        reverse: bool = False,
        values: bool = False,
        delimiter: Delimiter = None,
    ) -> Page:
        """Return one page of the keys below a prefix, in the order of their bytes.

        `after`, `before`: bounds, both exclusive. `limit`: 1 to 1,000. `values`: with the values, then at most 1 MiB of
        them. `delimiter`: fold the keys that have it after the prefix, into the `prefixes` of the page.
        """
        return await self._call(lists.page(self._prefix, prefix, after, before, limit, reverse, values, delimiter))

    def scan(
        self, prefix: str = "", *, values: bool = False, reverse: bool = False, delimiter: Delimiter = None
    ) -> AsyncScan:
        """Return an iterator over all keys below a prefix, which reads them page by page.

        Its `cursor` is where the feed stood before the first page. Keys that `delimiter` folds are left out.
        """
        return AsyncScan(lists.Pages(self._prefix, prefix, values, reverse, delimiter), self._call)

    async def keys(self, prefix: str = "") -> AsyncIterator[str]:
        """Return an iterator over the names of all keys below a prefix."""
        async for item in self.scan(prefix):
            yield item.key

    async def count(self, prefix: str = "") -> int:
        """Return how many keys there are below a prefix."""
        return await self._call(lists.count(self._prefix, prefix))

    async def delete_prefix(
        self, prefix: str, *, dry_run: bool = False, limit: int | None = None, all: bool = False
    ) -> Deleted:
        """Delete all keys below a prefix, but those that are written in the meantime; or only count them, with
        `dry_run`.

        `limit`: at most so many. An empty prefix needs `all=True`. The first request is not repeated once sent: if
        its answer is lost, `OutcomeUnknown` is raised, and a new call would also delete what was written since.
        """
        return await self._run(scripts.delete_prefix(self._prefix, prefix, dry_run, limit, all))

    async def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry out operations in one request, in order for each key, and return their results.

        An operation that fails raises nothing, and stops no other: see `Result.check`.
        """
        return await self._call(batches.batch(self._prefix, batches.check_ops(ops)))

    def atomic(self) -> AsyncAtomic:
        """Return a builder of operations that are done together or not at all, by its `commit`."""
        return AsyncAtomic(self._commit)

    # The server.

    async def status(self) -> Status:
        """Return the state of the server. Needs a token with `admin` on everything, if tokens are in use."""
        return await self._call(service.status())

    async def ping(self) -> float:
        """Return the seconds that a request takes there and back."""
        started_at = time.monotonic()
        await self._call(service.ping())
        return time.monotonic() - started_at

    async def ready(self) -> bool:
        """Return whether every shard of the server is up."""
        return await self._call(service.ready())

    async def whoami(self) -> Identity:
        """Return whose token this client sends, and what it may do."""
        return await self._call(service.whoami())

    async def ticket(
        self, purpose: TicketFor, *, grants: Sequence[Grant] | None = None, ttl: float | None = None
    ) -> Ticket:
        """Return a password that a browser sends in place of the token.

        One for `sse` or `websocket` opens one connection to the feed within 30 seconds. One for `kv` is sent as a token
        is, by REST and feed, and has `grants`, a part of the token's rights, for `ttl` seconds: 1 to 3,600, by default
        300.
        """
        return await self._call(service.ticket(purpose, self._prefix, grants, ttl))

    # Views on the same connections.

    def within(self, prefix: str) -> AsyncClient:
        """Return a client of the keys below a prefix, which is put before every key. It shares the connections."""
        return self._derive(prefix=self._prefix + prefix)

    def with_options(
        self, *, timeout: float | None = None, patience: float | None = None, idempotency: bool | None = None
    ) -> AsyncClient:
        """Return a client with other options, for some calls. It shares the connections."""
        old = self._options
        options = Options(
            old.timeout if timeout is None else timeout,
            old.patience if patience is None else patience,
            old.idempotency if idempotency is None else idempotency,
        )
        return self._derive(options=options)

    def _derive(self, prefix: str | None = None, options: Options | None = None) -> AsyncClient:
        other = copy(self)
        other._owns_session = False
        other._prefix = self._prefix if prefix is None else prefix
        other._options = options or self._options
        return other

    async def _commit(self, ops: list[Op]) -> list[Result]:
        return await self._call(batches.batch(self._prefix, batches.check_ops(ops), atomic=True))

    # How verbs are carried out.

    async def _call(self, call: Call[T]) -> T:
        """Send a call, repeat it by the policy, and return what its answer says."""
        return await self._run(policy.perform(call, self._options, secrets.token_urlsafe(16), self._servers))

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
        """Carry out a step, and return the function that passes its outcome to the script and returns the next step."""
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
        opened = await self._session.open_stream(call, read_timeout)
        if isinstance(opened, AsyncStream):
            return opened
        raise policy.error_of_stream(call, opened)
