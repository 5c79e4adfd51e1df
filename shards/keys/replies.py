"""The replies of an open group: those that wait for a revision or an old value, and how much they carry. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from shards.keys.budget import GroupLoad
from shards.wire.clock import Now, unix_ms
from shards.wire.errors import AnswerTooLarge, Overloaded
from shards.wire.outcomes import parts_of
from shards.wire.protocol import ANSWER_BYTES, Done, Failed, Remembered, Replaced, Value

MAX_ANSWERS: Final = 256 << 20
"""Most bytes of values in the replies of one group, which all are in memory at once; further ones are refused."""


class PendingReplies:
    """The replies of a group that are completed when it is committed and applied.

    Args:
        now: the time of the group.
        load: counts the values of replies as work.

    Attributes:
        bytes: sum of the sizes of the values that the replies carry.
    """

    __slots__ = ("_awaiting_revision", "_batch_bytes", "_load", "_now", "_remembered", "_wants_old_value", "bytes")

    def __init__(self, now: Now, load: GroupLoad) -> None:
        self._now, self._load = now, load
        self._awaiting_revision: list[Done | Value | Failed] = []
        self._wants_old_value: list[Replaced] = []
        self._remembered: list[Replaced] = []  # copies that have their old values already
        self._batch_bytes: dict[int, int] = {}  # of the values that the gets of each batch asked for
        self.bytes = 0

    def add_done(self, revision: int, existed: bool, wants_old: bool, expiry: int = 0) -> Done:
        """Make the reply to a change; `revision` is the group's own, `wants_old`: it is to carry the old value."""
        expires_ms = unix_ms(expiry, self._now) if expiry < 0 else expiry
        if not wants_old:
            done = Done(revision, existed, None, expires_ms)
        else:
            done = replaced = Replaced(revision, existed, None, expires_ms)
            self._wants_old_value.append(replaced)
        self._awaiting_revision.append(done)
        return done

    def await_revision(self, reply: Done | Value | Failed) -> None:
        """Have `set_revisions` turn the revision in `reply` into a real one if it is the group's own."""
        if reply.revision < 0:
            self._awaiting_revision.append(reply)

    def await_remembered(self, reply: Remembered) -> None:
        """Have `set_revisions` turn the revisions in `reply`, which carries its values, into real ones."""
        for part in parts_of(reply):
            self.await_revision(part)
            if isinstance(part, Replaced):
                self._remembered.append(part)

    def count_answer(self, size: int) -> None:
        """Count a value of `size` bytes that a reply will carry. Raises `Overloaded`."""
        if self.bytes + size > MAX_ANSWERS:
            raise Overloaded("too many large values were requested at once")
        self.bytes += size
        self._load.count_work(size)

    def count_batch_answer(self, batch: int, size: int) -> None:
        """Count a value of `size` bytes that a get of `batch` answers. Raises `AnswerTooLarge` and `Overloaded`."""
        answered = self._batch_bytes.get(batch, 0) + size
        self._batch_bytes[batch] = answered  # also if it is refused: after the first refusal all gets of the batch are
        if answered > ANSWER_BYTES:
            raise AnswerTooLarge
        self.count_answer(size)

    def set_revisions(self, first_revision: int) -> set[int]:
        """Turn the group's own revisions in the replies into real ones; return those whose old value is wanted."""
        last = first_revision - 1  # ~n becomes first_revision + n
        for reply in self._awaiting_revision:
            reply.revision = last - reply.revision
        for replaced in self._remembered:
            if replaced.previous_revision < 0:
                replaced.previous_revision = last - replaced.previous_revision
        return {replaced.revision for replaced in self._wants_old_value}

    def fill_old_values(self, previous: Mapping[int, tuple[bytes, str, int]]) -> None:
        """Fill in the old values, by revision: value, content type, revision. To be called after `set_revisions`."""
        for done in self._wants_old_value:
            done.previous, done.previous_type, done.previous_revision = previous[done.revision]

    def set_savepoint(self) -> Callable[[], None]:
        """Return a function that drops the replies made from now on. What gets of batches asked for stays counted."""
        awaiting, wanting, size = len(self._awaiting_revision), len(self._wants_old_value), self.bytes
        remembered = len(self._remembered)

        def restore() -> None:
            del self._awaiting_revision[awaiting:], self._wants_old_value[wanting:], self._remembered[remembered:]
            self.bytes = size

        return restore
