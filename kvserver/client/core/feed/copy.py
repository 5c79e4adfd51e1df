"""A copy of keys, kept by the changes of a watch that began with a snapshot. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from kvserver.client.changes import Delete, Envelope, Put, Reset, Synced, Touch
from kvserver.client.model import Entry


@dataclass(frozen=True)
class Difference:
    """What became of a key of the copy: `old` and `new` are None where there was or is nothing."""

    key: str
    old: Entry | None
    new: Entry | None


class Copy:
    """The state of keys as of one place in the history.

    A snapshot is built aside, and replaces the state once it is whole: the state is never empty or half in between.

    Attributes:
        cursor: the place; None: there is no state yet.
    """

    def __init__(self, cursor: str | None = None, state: Mapping[str, Entry] | None = None) -> None:
        """Begin with a state that was kept, and its cursor; or with nothing."""
        self.cursor = cursor
        self._state: dict[str, Entry] = dict(state or {})
        self._aside: dict[str, Entry] | None = None

    @property
    def state(self) -> Mapping[str, Entry]:
        """The keys and what they hold; the next envelope changes this very mapping, or replaces it."""
        return self._state

    @property
    def is_building(self) -> bool:
        """Whether a snapshot is being built aside: the state is older than what was received."""
        return self._aside is not None

    def apply(self, envelope: Envelope) -> list[Difference]:
        """Apply all of an envelope's changes, and return what became of the keys of the state."""
        found: list[Difference] = []
        has_state = self.cursor is not None  # else even a bookmark may come from within the snapshot
        for change in envelope.changes:
            if isinstance(change, Reset):
                if change.snapshot:
                    self._aside = {}
            elif isinstance(change, Synced):
                found += self._swap()
                has_state = True
            elif isinstance(change, (Put, Touch, Delete)):
                difference = self._change(change)
                if difference is not None:
                    found.append(difference)
        if has_state and self._aside is None:
            self.cursor = envelope.cursor
        return found

    def _change(self, change: Put | Touch | Delete) -> Difference | None:
        target = self._state if self._aside is None else self._aside
        old = target.get(change.key)
        new: Entry | None = None
        if isinstance(change, Put):
            new = change.entry
        elif isinstance(change, Touch) and old is not None:
            new = replace(old, revision=change.revision, expires=change.expires)
        if new is not None:
            target[change.key] = new
        elif old is not None:
            del target[change.key]
        return Difference(change.key, old, new) if target is self._state and new is not old else None

    def _swap(self) -> Iterator[Difference]:
        """Let what was built aside replace the state, and yield what that changes."""
        before, after = self._state, self._aside
        if after is None:  # a snapshot whose beginning another copy got: there is nothing to replace
            return
        self._state, self._aside = after, None
        for key, old in before.items():
            if key not in after:
                yield Difference(key, old, None)
        for key, new in after.items():
            held = before.get(key)
            if held is None or held.revision != new.revision:
                yield Difference(key, held, new)
