"""The methods of `Client` that follow the feed."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterable
from os import PathLike
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from kvserver.client.core.calls import Call, Renew
from kvserver.client.core.feed.wish import LINES, SILENCE_S, Wish, wish_of
from kvserver.client.live.clock import elapsed_s
from kvserver.client.model import Entry, Options, Ttl, Value
from kvserver.client.transport.pool import Stream

if TYPE_CHECKING:  # loaded where they are used: programs that only read and write start much faster without
    from kvserver.client.core.feed.follow import Follow
    from kvserver.client.live.election import Election
    from kvserver.client.live.lease import Lease, OnLost
    from kvserver.client.live.lock import Lock
    from kvserver.client.live.mirror import Mirror, OnChange
    from kvserver.client.live.watch import OnState, Watch

V = TypeVar("V")
_CLIENT_PATIENCE: Final = -1.0


class LiveVerbs:
    """Watches, mirrors, leases, locks and elections for threads."""

    _prefix: str
    _options: Options
    _silence: float = SILENCE_S
    _servers: int = 1
    """How many there are."""

    def watch(
        self,
        *prefixes: str,
        keys: Iterable[str] = (),
        snapshot: bool = False,
        since: str | None = None,
        ops: str | Iterable[str] | None = None,
        values: bool = True,
        conflate: bool = False,
        activity: bool = False,
        on_gap: str = "raise",
        patience: float | None = None,
        on_state: OnState | None = None,
    ) -> Watch:
        """Return a watch of the keys that begin with a prefix, and of `keys`; without both, of all keys.

        It continues over broken connections and restarts of the server: no change is missed, and none comes twice.

        Args:
            prefixes: at most 64 together with `keys`.
            snapshot: yield the state first: `Reset`, a `Put` for each key, `Synced`; then changes.
            since: continue after this cursor, of an earlier watch or of a list.
            ops: kinds of changes: `put`, `touch`, `delete`, or `delete:expire` and other causes.
            values: False: yield sizes instead of values.
            conflate: when the watch is behind, yield only the latest change of each key.
            activity: also yield reads, lists, and deletes of absent keys.
            on_gap: what to do if the server no longer keeps the missing changes, and no snapshot follows: "raise"
                raises `Gap`, "continue" yields `Reset` and continues with what is kept.
            patience: seconds to wait for a message, of which there is one every 10 seconds at least, before giving up;
                None: forever, once the first has come within the patience of the client.
            on_state: called when the watch is connected, and when it waits to connect again.

        Raises `BadRequest` and `ValueError` here, and while it runs the server's errors, `Gap`, `CannotConnect`, and
        `NotAnswered` when patience is used up. A connection that is silent for 25 seconds is replaced.
        """
        wish = wish_of(
            prefixes,
            keys,
            below=self._prefix,
            snapshot=snapshot,
            ops=ops,
            values=values,
            conflate=conflate,
            activity=activity,
        )
        return self._watch_of(self._follow_of(wish, since, on_gap, patience), on_state)

    def wait(
        self, key: str, until: Callable[[Entry | None], bool] | None = None, timeout: float | None = None
    ) -> Entry | None:
        """Wait until what a key holds satisfies `until`, and return that; None if the key is then absent.

        `until` is called with each entry that the key has, and with None when it is absent. Without it, the key is
        waited for. Raises `TimeoutError` after `timeout` seconds.
        """
        from kvserver.client.core.feed.waiting import Waiter

        ends_at = None if timeout is None else elapsed_s() + timeout
        waiter = Waiter(key, until)
        watch = self.watch(keys=[key], snapshot=True)
        try:
            while (envelope := watch.next_envelope(ends_at)) is not None:
                if waiter.is_over(envelope):
                    return waiter.entry
        finally:
            watch.close()
        raise waiter.error(timeout)

    @overload
    def mirror(
        self,
        prefix: str = "",
        *,
        decode: None = None,
        load: str | PathLike[str] | None = None,
        on_change: OnChange | None = None,
        on_state: OnState | None = None,
    ) -> Mirror[Entry]: ...

    @overload
    def mirror(
        self,
        prefix: str = "",
        *,
        decode: Callable[[Entry], V],
        load: str | PathLike[str] | None = None,
        on_change: OnChange | None = None,
        on_state: OnState | None = None,
    ) -> Mirror[V]: ...

    def mirror(
        self,
        prefix: str = "",
        *,
        decode: Callable[[Entry], Any] | None = None,
        load: str | PathLike[str] | None = None,
        on_change: OnChange | None = None,
        on_state: OnState | None = None,
    ) -> Mirror[Any]:
        """Return a live, read-only copy of the keys below a prefix: `with kv.mirror("flags/") as flags`.

        Entered, it has the state. It reads like a dict, of whole keys, and holds entries.

        Args:
            decode: turns an entry into what the mirror holds; called at the first access to the entry.
            load: a file that `Mirror.save` wrote, to begin with its state; if there is none, the mirror starts over.
            on_change: called for each key that changed, by the thread that follows.
            on_state: called when the mirror is connected, when it waits to connect again, and when it ended.

        Raises `ValueError` for another file.
        """
        from pathlib import Path

        from kvserver.client.core.feed.copy import Copy
        from kvserver.client.live.mirror import Mirror
        from kvserver.client.live.mirror_file import load_copy

        copy = Copy() if load is None else load_copy(Path(load), self._prefix + prefix)
        wish = wish_of([prefix], (), below=self._prefix, snapshot=True)
        first = _CLIENT_PATIENCE if copy.cursor is None else None
        follow = self._follow_of(wish, copy.cursor, "raise", None, first)
        mirror: Mirror[Any] = Mirror(
            self._prefix + prefix, follow, copy, decode or _as_it_is, on_change, on_state, self._silence
        )
        mirror.bind(self._watch_of(follow, mirror.note_state))
        return mirror

    def lease(self, ttl: Ttl = 10.0, *, on_lost: OnLost | None = None) -> Lease:
        """Return a lease: keys put with it stay until it is closed, and expire `ttl` seconds later at most.

        `on_lost` is called with the keys that it lost, since another changed or deleted them. Raises `BadRequest` for
        a time to live that is not above 0.
        """
        from kvserver.client.core.tenure import checked_ttl
        from kvserver.client.live.lease import Lease

        seconds = checked_ttl(ttl)
        return Lease(self._run_within(seconds), self._prefix, seconds, on_lost)

    def lock(self, name: str, *, ttl: Ttl = 10.0, timeout: float | None = None) -> Lock:
        """Return a lock, which one client holds at a time: `with kv.lock("jobs/nightly") as lock`. Its name is a key.

        A holder that dies, or cannot reach the server, loses it after `ttl` seconds. `timeout`: seconds for
        which `with` waits for the lock, None for ever. Raises `BadRequest` for a time to live that is not above 0.
        """
        return self._lock_of(name, ttl, None, timeout)

    def election(self, name: str, *, ttl: Ttl = 10.0) -> Election:
        """Return an election: who holds the key `name` leads. A dead leader has lost it after `ttl` seconds, as a lock.

        Raises `BadRequest` for a time to live that is not above 0.
        """
        from kvserver.client.core.tenure import checked_ttl
        from kvserver.client.live.election import Election

        checked_ttl(ttl)
        return Election(
            name,
            lambda value, timeout: self._lock_of(name, ttl, value, timeout),
            lambda: self.watch(keys=[name], snapshot=True),
        )

    # What they are made of

    def _lock_of(self, name: str, ttl: Ttl, value: Value | None, timeout: float | None) -> Lock:
        from kvserver.client.core.tenure import checked_ttl
        from kvserver.client.live.lock import Lock

        seconds = checked_ttl(ttl)
        return Lock(self._run_within(seconds), self._wait_until_gone, self._prefix, name, seconds, value, timeout)

    def _wait_until_gone(self, key: str, timeout: float) -> None:
        self.wait(key, lambda entry: entry is None, None if timeout == float("inf") else timeout)

    def _run_within(self, ttl: float) -> Callable[[Generator[Any, Any, Any]], Any]:
        """Return what runs scripts of renewals: none takes so long that there is no time for the next."""
        from kvserver.client.core.tenure import RENEWALS

        old, most = self._options, ttl / RENEWALS
        return self.with_options(timeout=min(old.timeout, most), patience=min(old.patience, most))._run

    def _follow_of(
        self,
        wish: Wish,
        since: str | None,
        on_gap: str,
        patience: float | None,
        first_patience: float | None = _CLIENT_PATIENCE,
    ) -> Follow:
        from kvserver.client.core.feed.follow import Follow

        if first_patience == _CLIENT_PATIENCE:
            first_patience = self._options.patience if patience is None else patience
        return Follow(
            wish,
            elapsed_s,
            random.random,
            since=since,
            below=self._prefix,
            on_gap=on_gap,
            patience=patience,
            first_patience=first_patience,
            silence=self._silence,
            servers=self._servers,
        )

    def _watch_of(self, follow: Follow, on_state: OnState | None) -> Watch:
        from kvserver.client.live.watch import Watch

        return Watch(follow, self._open_feed, self._renew_token, on_state)

    def _open_feed(self, target: str) -> Stream:
        call: Call[None] = Call("GET", target, lambda answer: None, headers={"Accept": LINES})
        return self._open_stream(call, self._options.timeout)

    def _renew_token(self) -> bool:
        return bool(self._carry_out(Renew()))

    # What `Client` has

    def with_options(
        self, *, timeout: float | None = None, patience: float | None = None, idempotency: bool | None = None
    ) -> LiveVerbs:
        """Return a client with other options."""
        raise NotImplementedError

    def _run(self, script: Generator[Any, Any, Any]) -> Any:
        raise NotImplementedError

    def _carry_out(self, step: Any) -> Any:
        raise NotImplementedError

    def _open_stream(self, call: Call[Any], read_timeout: float) -> Stream:
        raise NotImplementedError


def _as_it_is(entry: Entry) -> Entry:
    return entry
