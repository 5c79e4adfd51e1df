"""Keyspaces of one shard, and operations decided in a group of their own."""

from __future__ import annotations

from collections.abc import Iterable

from shards.keys import rules
from shards.keys.budget import Starved
from shards.keys.entries import Entry, StagedEntries
from shards.keys.group import Group
from shards.keys.keyspace import Keyspace
from shards.server import proposals
from shards.wire.protocol import Failed, Operation, Reply
from tests.times import at

MAX_VALUE = 100
NOW = 1_700_000_000_000


def keyspace(*operations: Operation, now_ms: int = NOW, first_revision: int = 1) -> Keyspace:
    """A keyspace of all slots in which `operations` were done."""
    made = Keyspace(0, 1, MAX_VALUE)
    group = Group(made, at(now_ms))
    for operation in operations:
        assert not isinstance(rules.decide(group, operation), Failed)
    group.commit(first_revision)
    made.check()
    return made


def load(space: Keyspace, rows: Iterable[tuple[bytes, int, int, int, int]]) -> None:
    """Commit to `space`: key, revision, revision of the value, expiry, size. They are used last when time began."""
    staged = StagedEntries(space.find_entry)
    for key, revision, value_revision, expiry, size in rows:
        staged.stage(key, None, (-revision, -value_revision, expiry, size))
    space.commit(staged, 1, 0)


def held(space: Keyspace) -> dict[bytes, Entry]:
    """The entries of a keyspace without a map."""
    return {key: entry for key, entry in space.recent.items() if entry is not None}


def expire_due(group: Group, most: int) -> int:
    """Have `group`, which is new, delete the keys that are due; their number."""
    proposals.expire_due(group, most)
    return len(group.events)


def decide(space: Keyspace, operation: Operation, first_revision: int = 100, now_ms: int = NOW) -> Reply:
    """Do one operation in a group of its own."""
    group = Group(space, at(now_ms))
    reply = rules.decide(group, operation)
    assert not isinstance(reply, Starved)
    wanted = group.commit(first_revision)
    group.replies.fill_old_values(dict.fromkeys(wanted, (b"old", "a/b", 7)))
    space.check()
    return reply
