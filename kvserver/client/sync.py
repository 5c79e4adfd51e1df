"""`Client`: the verbs of the store for threads. Each verb is a call or a script of `core`, carried out here."""

from __future__ import annotations

import random
import secrets
import ssl as tls
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from kvserver.client.atomics import Atomic
from kvserver.client.core import batches, lists, policy, scripts, service, single
from kvserver.client.core.batches import Op
from kvserver.client.core.calls import Attempt, Await, Call, Renew, Script, Sleep, Step
from kvserver.client.core.lists import Delimiter
from kvserver.client.core.single import Content
from kvserver.client.errors import KVError, NotFound, Result
from kvserver.client.live.verbs import LiveVerbs
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
from kvserver.client.scans import Scan
from kvserver.client.transport.address import ENVIRONMENT, find_token
from kvserver.client.transport.pool import Pool, Stream
from kvserver.client.transport.servers import find_servers

T = TypeVar("T")
OnRetry = Callable[[KVError, int, float], None]
"""Called before a repeat: the error, how often the request was sent, and in how many seconds it is sent again."""


class Client(LiveVerbs):
    """A connection pool to one server. Threads may share it, and it survives `fork`.

    Args:
        url: a URL, or the URLs of the servers of one cluster: a list, or with commas between them. The client uses the
            first until it fails, then the next. Default: KVSERVER_URL, else http://localhost:8080.
        token: a text, or a function that returns one and is called
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
        token: str | Callable[[], str] | None = None,
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
        self._pool = Pool(servers, found, connections, idle, ssl)
        self._prefix = prefix
        self._silence = silence
        self._servers = len(servers)
        self._on_retry = on_retry
        self._owns_pool = True

    def __repr__(self) -> str:
        below = f", prefix={self._prefix!r}" if self._prefix else ""
        return f"{type(self).__name__}({self._pool.servers.urls!r}{below})"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. What `within` and `with_options` made shares them, and closes nothing itself."""
        if self._owns_pool:
            self._pool.close()

    # One key.

    def get(self, key: str, *, range: tuple[int, int | None] | None = None) -> Entry | None:
        """Return the value of a key, or None if there is no such key.

        `range`: the first and the last byte that are wanted, both included; None as the last means the end.
        """
        return self._call(single.get(self._prefix, key, range))

    def __getitem__(self, key: str) -> bytes:
        """Return the value of a key. Raises `NotFound`, which is a `KeyError`."""
        entry = self.get(key)
        if entry is None:
            raise NotFound(repr(key))
        return entry.value

    def __contains__(self, key: object) -> bool:
        """Tell whether there is such a key."""
        return isinstance(key, str) and self.head(key) is not None

    def head(self, key: str) -> Meta | None:
        """Return what is known of a key without its value, or None if there is no such key."""
        return self._call(single.head(self._prefix, key))

    def get_if_changed(self, key: str, revision: int) -> Entry | Unchanged | None:
        """Return the value of a key, `UNCHANGED` if it still has this revision, or None if it is absent."""
        return self._call(single.get_if_changed(self._prefix, key, revision))

    def put(
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
        return self._call(single.put(self._prefix, key, content, if_revision, idempotent))

    def create(
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
        return self._call(single.create(self._prefix, key, Content.of(value, json, content_type, ttl, expires)))

    def exchange(
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
        return self._call(single.exchange(self._prefix, key, content, if_revision))

    def update(
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
        the key as it is, or `DELETE`. It is called again after a conflict, for at most `tries` times in
        all; then `PreconditionFailed` is raised. The content type is kept, and so is the expiry unless `ttl` is given
        (None: it never expires). Returns the entry afterwards.
        """
        return self._run(scripts.update(self._prefix, key, change, json, ttl, tries, idempotent))

    def patch(self, key: str, merge: object, *, if_revision: int | None = None) -> Patched:
        """Merge a JSON merge patch (RFC 7396) into a value, which must be JSON; an absent key counts as {}.

        Raises `NotJson`, and `AnswerWithheld` where it was done but the token may not read the result.
        """
        return self._call(single.patch(self._prefix, key, merge, if_revision))

    def incr(self, key: str, by: int = 1, *, ttl_if_new: Ttl | None = None, if_revision: int | None = None) -> int:
        """Add to a whole number and return the sum; an absent key counts as 0, and then lives for `ttl_if_new`.

        Raises `NotAnInteger`, `Overflow` (beyond 64 bits), and `AnswerWithheld` where it was done but the token may not
        read the result.
        """
        return self._call(single.incr(self._prefix, key, by, ttl_if_new, if_revision))

    def touch(
        self,
        key: str,
        *,
        ttl: Ttl | None = None,
        expires: Expires | None = None,
        persist: bool = False,
        if_revision: int | None = None,
    ) -> int:
        """Change the expiry of a key alone (`persist`: to never), and return its new revision. Raises `NotFound`."""
        return self._call(single.touch(self._prefix, key, ttl, expires, persist, if_revision))

    def delete(self, key: str, *, if_revision: int | None = None) -> bool:
        """Delete a key; return False if there was none."""
        return self._call(single.delete(self._prefix, key, if_revision))

    # Many keys.

    def get_many(self, keys: Iterable[str]) -> dict[str, Entry | None]:
        """Return the values of many keys by key; None for those that are absent."""
        return self._run(scripts.get_many(self._prefix, keys))

    def put_many(self, pairs: Mapping[str, Value] | Iterable[tuple[str, Value]], *, lanes: int = 4) -> Loaded:
        """Store many values, in batches of which `lanes` are under way at a time.

        If a key occurs twice, either value may stay. Raises the first error; what was stored until then stays.
        """
        from concurrent.futures import ThreadPoolExecutor  # slow to import, and seldom needed

        remaining = batches.divide(pairs.items() if isinstance(pairs, Mapping) else pairs)
        turn = threading.Lock()

        def carry() -> int:
            stored = 0
            while True:
                with turn:
                    ops = next(remaining, None)
                if ops is None:
                    return stored
                stored += len([result.check() for result in self.batch(ops)])

        with ThreadPoolExecutor(lanes) as executor:
            return Loaded(sum(list(executor.map(lambda _: carry(), range(lanes)))))

    def page(
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
        return self._call(lists.page(self._prefix, prefix, after, before, limit, reverse, values, delimiter))

    def scan(
        self, prefix: str = "", *, values: bool = False, reverse: bool = False, delimiter: Delimiter = None
    ) -> Scan:
        """Return an iterator over all keys below a prefix, which reads them page by page.

        Its `cursor` is where the feed stood before the first page. Keys that `delimiter` folds are left out.
        """
        return Scan(lists.Pages(self._prefix, prefix, values, reverse, delimiter), self._call)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Return an iterator over the names of all keys below a prefix."""
        return (item.key for item in self.scan(prefix))

    def count(self, prefix: str = "") -> int:
        """Return how many keys there are below a prefix."""
        return self._call(lists.count(self._prefix, prefix))

    def delete_prefix(
        self, prefix: str, *, dry_run: bool = False, limit: int | None = None, all: bool = False
    ) -> Deleted:
        """Delete all keys below a prefix, but those that are written in the meantime; or only count them, with
        `dry_run`.

        `limit`: at most so many. An empty prefix needs `all=True`. The first request is not repeated once sent: if
        its answer is lost, `OutcomeUnknown` is raised, and a new call would also delete what was written since.
        """
        return self._run(scripts.delete_prefix(self._prefix, prefix, dry_run, limit, all))

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry out operations in one request, in order for each key, and return their results.

        An operation that fails raises nothing, and stops no other: see `Result.check`.
        """
        return self._call(batches.batch(self._prefix, batches.check_ops(ops)))

    def atomic(self) -> Atomic:
        """Return a builder of operations that are done together or not at all: `kv.atomic().put(...).commit()`."""
        return Atomic(self._commit)

    # The server.

    def status(self) -> Status:
        """Return the state of the server. Needs a token with `admin` on everything, if tokens are in use."""
        return self._call(service.status())

    def ping(self) -> float:
        """Return the seconds that a request takes there and back."""
        started_at = time.monotonic()
        self._call(service.ping())
        return time.monotonic() - started_at

    def ready(self) -> bool:
        """Return whether every shard of the server is up."""
        return self._call(service.ready())

    def whoami(self) -> Identity:
        """Return whose token this client sends, and what it may do."""
        return self._call(service.whoami())

    def ticket(self, purpose: TicketFor, *, grants: Sequence[Grant] | None = None, ttl: float | None = None) -> Ticket:
        """Return a password that a browser sends in place of the token.

        One for `sse` or `websocket` opens one connection to the feed within 30 seconds. One for `kv` is sent as a token
        is, by REST and feed, and has `grants`, a part of the token's rights, for `ttl` seconds: 1 to 3,600, by default
        300.
        """
        return self._call(service.ticket(purpose, self._prefix, grants, ttl))

    # Views on the same connections.

    def within(self, prefix: str) -> Client:
        """Return a client of the keys below a prefix, which is put before every key. It shares the connections."""
        return self._derive(prefix=self._prefix + prefix)

    def with_options(
        self, *, timeout: float | None = None, patience: float | None = None, idempotency: bool | None = None
    ) -> Client:
        """Return a client with other options, for some calls. It shares the connections."""
        old = self._options
        options = Options(
            old.timeout if timeout is None else timeout,
            old.patience if patience is None else patience,
            old.idempotency if idempotency is None else idempotency,
        )
        return self._derive(options=options)

    def _derive(self, prefix: str | None = None, options: Options | None = None) -> Client:
        other = copy(self)
        other._owns_pool = False
        other._prefix = self._prefix if prefix is None else prefix
        other._options = options or self._options
        return other

    def _commit(self, ops: list[Op]) -> list[Result]:
        return self._call(batches.batch(self._prefix, batches.check_ops(ops), atomic=True))

    # How verbs are carried out.

    def _call(self, call: Call[T]) -> T:
        """Send a call, repeat it by the policy, and return what its answer says."""
        return self._run(policy.perform(call, self._options, secrets.token_urlsafe(16), self._servers))

    def _run(self, script: Script[T]) -> T:
        """Carry out the steps of a script, and return its result."""
        try:
            step = next(script)
            while True:
                resume = self._outcome(script, step)
                step = resume()
        except StopIteration as end:
            value: T = end.value
            return value
        finally:
            script.close()

    def _outcome(self, script: Script[Any], step: Step) -> Callable[[], Step]:
        """Carry out a step, and return the function that passes its outcome to the script and returns the next step."""
        try:
            result = self._carry_out(step)
        except Exception as error:
            return partial(script.throw, error)
        return partial(script.send, result)

    def _carry_out(self, step: Step) -> Any:
        if isinstance(step, Attempt):
            return self._pool.attempt(step, self._options.timeout)
        if isinstance(step, Call):
            return self._call(step)
        if isinstance(step, Sleep):
            return self._sleep(step)
        if isinstance(step, Renew):
            return self._pool.renew_token()
        if isinstance(step, Await):
            return step.function(*step.arguments)
        raise TypeError(f"{step!r} is no step of a script")

    def _sleep(self, step: Sleep) -> None:
        seconds = min(max(random.uniform(0, step.jitter), step.least), step.most)
        if step.error is not None and self._on_retry is not None:
            self._on_retry(step.error, step.attempts, seconds)
        time.sleep(seconds)

    def _open_stream(self, call: Call[Any], read_timeout: float) -> Stream:
        """Send a call once, and return the body of its answer, which has no end yet. Raises `KVError`."""
        opened = self._pool.open_stream(call, read_timeout)
        if isinstance(opened, Stream):
            return opened
        raise policy.error_of_stream(call, opened)
