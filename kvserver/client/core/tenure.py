"""A key that one process holds, as long as it renews its expiry in time: of leases, locks, elections. Pure.

The holder's own clock decides whether it is held, and never counts longer than the server does: the key
expires `ttl` after the server read the renewal, and counts as held for 0.9 · `ttl` after the renewal was sent.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from kvserver.client.core import single
from kvserver.client.core.calls import Await, Script, Sleep
from kvserver.client.core.single import Content
from kvserver.client.core.values import ttl_text
from kvserver.client.errors import NotFound, OutcomeUnknown, PreconditionFailed
from kvserver.client.model import Entry, Ttl

SAFE: Final = 0.9
"""Part of the time to live for which a key counts as held."""
RENEWALS: Final = 3
"""In a time to live."""
_AGAIN_S: Final = 0.05


class Tenure:
    """Being the holder of a key.

    Attributes:
        revision: of the key, as far as it is known.
        fence: the revision at which the key was created. It grows from one holder to the next.
        expired: whether it was lost by not being renewed in time; else another deleted it, or took it.
    """

    def __init__(self, prefix: str, key: str, ttl: float, content: Content, clock: Callable[[], float]) -> None:
        """Hold nothing yet.

        Args:
            ttl: seconds.
            content: what the key holds. If it is unique, it shows that the key is one's own.
            clock: returns seconds that only grow.
        """
        self.revision = self.fence = 0
        self.key, self._prefix, self._ttl, self._content, self._clock = key, prefix, ttl, content, clock
        self._held_until = float("-inf")
        self._lost = False
        self.expired = False

    @property
    def held(self) -> bool:
        """Whether the key is certainly held at this moment. Once it was not, it is not any more."""
        if self.fence and not self._lost and self._clock() >= self._held_until:
            self._lost = self.expired = True
        return self.fence > 0 and not self._lost

    @property
    def lost(self) -> bool:
        """Whether the key was held, and is not any more."""
        return self.fence > 0 and not self.held

    def seconds_left(self) -> float:
        """Return for how long the key is held if it is not renewed; 0 if it is not held."""
        return max(0.0, self._held_until - self._clock()) if self.held else 0.0

    def drop(self) -> None:
        """Hold the key no longer."""
        self._lost = True

    def begin(self, revision: int, sent_at: float) -> None:
        """Hold the key, which was created at `revision` by a request sent at `sent_at`."""
        self.revision = self.fence = revision
        self._held_until, self._lost, self.expired = sent_at + SAFE * self._ttl, False, False

    def acquire(self, wait_until_gone: Callable[..., Any], until: float) -> Script[bool]:
        """Return the script that creates the key, waiting for as long as another has it; False if `until` came first.

        `wait_until_gone` is called with the key and the most seconds; it raises `TimeoutError`.
        """
        doubt = False  # whether the key may be there by a request of one's own
        while True:
            sent_at = self._clock()
            try:
                written = yield single.create(self._prefix, self.key, self._content)
            except OutcomeUnknown:
                doubt = True
            except PreconditionFailed:
                pass
            else:
                self.begin(written.revision, sent_at)
                if self.held:
                    return True
                doubt = True  # the answer took too long
            if doubt:
                entry = yield single.get(self._prefix, self.key)
                if self._is_mine(entry) and (yield from self._touch(entry.revision)):
                    self.fence, self._lost = entry.revision, False
                    if self.held:
                        return True
            left = until - self._clock()
            if left <= 0:
                return False
            try:
                yield Await(wait_until_gone, (self.key, left))
            except TimeoutError:
                return False
            yield Sleep(_AGAIN_S)  # so that not all who waited come at the same moment

    def renew(self) -> Script[bool]:
        """Return the script that puts the key's expiry off; False: the key is another's, or gone."""
        if self.held and not (yield from self._touch(self.revision, self._held_until)) and self.held:
            self._lost = True
        return not self._lost

    def _touch(self, revision: int, until: float = float("inf")) -> Script[bool]:
        """Return the script that renews the key at `revision`; False if it is not one's own, or `until` has passed."""
        while True:
            sent_at = self._clock()
            try:
                renewed = yield single.touch(self._prefix, self.key, ttl=self._ttl, if_revision=revision)
            except (NotFound, PreconditionFailed, OutcomeUnknown):
                entry = yield single.get(self._prefix, self.key)
                if not self._is_mine(entry):
                    return False
                revision = entry.revision
                yield Sleep(_AGAIN_S)
            else:
                if self._clock() >= until:
                    return False
                self.revision = renewed
                self._held_until = sent_at + SAFE * self._ttl
                return True

    def release(self) -> Script[bool]:
        """Return the script that deletes the key, if it is one's own; True if it was."""
        revision, self._lost = self.revision, True
        for _ in range(3):
            try:
                deleted = yield single.delete(self._prefix, self.key, revision)
            except (PreconditionFailed, OutcomeUnknown):  # noqa: PERF203 - a loop of three
                entry = yield single.get(self._prefix, self.key)
                if not self._is_mine(entry):
                    return False
                revision = entry.revision
            else:
                return bool(deleted)
        return False

    def _is_mine(self, entry: Entry | None) -> bool:
        content = self._content
        return entry is not None and (entry.value, entry.content_type) == (content.body, content.content_type)


def checked_ttl(ttl: Ttl) -> float:
    """Return a time to live in seconds. Raises `BadRequest` unless it is above 0, `TypeError` for what is no time."""
    ttl_text(ttl)
    return ttl.total_seconds() if isinstance(ttl, timedelta) else float(ttl)
