"""What a shard proposes beside the requests of clients: keys to expire, and keys to evict. Pure: time is an argument.

A proposal is an operation on keys and revisions. `rules` decides it like any other, so what it means depends on neither
the clocks nor the chance by which it was made. A shard that is alone proposes to itself, in the group at hand; one that
shares an order proposes there, and decides when the proposal comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from shards.keys.budget import Starved
from shards.keys.entries import REVISION, SIZE, Entry
from shards.keys.group import Group
from shards.keys.keyspace import Keyspace
from shards.wire.clock import Now
from shards.wire.protocol import (
    AtomicBatch,
    Evict,
    Expire,
    Failed,
    Incr,
    Operation,
    Patch,
    Proposed,
    Put,
    Reply,
    bare,
    size_of,
)

_NUMBER_BYTES = 20  # of the longest number that an increment makes

Decide = Callable[[Group, Operation], Reply | Starved]


def expire_due(group: Group, most: int) -> None:
    """Delete at most `most` keys that have expired. To be called first in a group of a shard that is alone."""
    due = group.keyspace.take_due(group.now, most)
    if due:
        group.delete_due(due)  # what an `Expire` of them would do: they have just been looked up


def decide_starved(group: Group, operation: Operation, starved: Starved, decide: Decide) -> Reply | Starved:
    """Evict what `operation` needs, which `decide` has answered by `starved`, and decide it again.

    For a shard that is alone. Returns the reply; it is `Starved` if another group can evict more: one more of the
    same keys, or keys that this one has changed. Nothing is evicted for what cannot fit.
    """
    evictor, keyspace = group.keyspace.evictor, group.keyspace
    assert evictor is not None, "starved, although nothing may be evicted"
    most = evictor.max_per_group - group.evicted
    victims, size = keyspace.take_victims(
        starved.needed, most, group.staged.changes, _keys_of(operation), group.now.steady_ms
    )
    is_enough = size >= starved.needed - group.memory.slack_bytes()
    if not is_enough and len(victims) < most:  # there is nothing else to evict
        evictor.restore(key for key, _ in victims)
        return starved if group.events else Failed.of(group.memory.refuse_starved(starved.needed))
    if victims:
        group.delete_victims(victims)  # what an `Evict` of them would do
    if not is_enough:
        return starved
    group.memory.shrinks = False  # it has shrunk as far as it can for this operation
    reply = decide(group, operation)
    group.memory.shrinks = True
    return reply


def propose_expiries(keyspace: Keyspace, now: Now, most: int) -> Expire | None:
    """Return at most `most` keys that have expired at `now`, to be proposed to an order. None: there are none.

    They are found again until they are deleted: a proposal may be lost.
    """
    due = keyspace.take_due(now, most)
    keyspace.restore_due()
    return Expire(_proposed(due)) if due else None


def propose_evictions(keyspace: Keyspace, operations: Sequence[Operation], now: Now, needed: int) -> Evict | None:
    """Return keys to evict, to be proposed to an order ahead of `operations`, or before they are proposed again.

    None: there is room for them, or nothing to evict. The keys are not found again until they change, or by
    `Keyspace.restore_taken`.

    Args:
        keyspace: of a shard that holds all keys.
        operations: whose keys are spared.
        now: when they count as read or not.
        needed: bytes, as `Starved` has said. 0: as many as `operations` may need.
    """
    if keyspace.evictor is None:
        return None
    if not needed:
        needed = keyspace.bytes + sum(_growth_of(operation, keyspace) for operation in operations) - keyspace.max_memory
    if needed <= 0:
        return None
    spared = {key for operation in operations for key in _keys_of(operation)}
    victims, _ = keyspace.take_victims(needed, keyspace.evictor.max_per_group, (), spared, now.steady_ms)
    return Evict(_proposed(victims)) if victims else None


def _proposed(keys: Sequence[tuple[bytes, Entry]]) -> Proposed:
    """Return `keys`, which have their entries, as they are proposed."""
    return [(key, entry[REVISION]) for key, entry in keys]


def _keys_of(operation: Operation) -> Collection[bytes]:
    """Return the keys that `operation` names."""
    operation = bare(operation)
    if type(operation) is AtomicBatch:
        return {each.key for each in operation.operations}
    key = getattr(operation, "key", None)
    return () if key is None else (key,)


def _growth_of(operation: Operation, keyspace: Keyspace) -> int:
    """Return by how many bytes `operation` may make keys and values grow, as its keys are now."""
    operation = bare(operation)
    if isinstance(operation, AtomicBatch):
        return sum(_growth_of(each, keyspace) for each in operation.operations)
    if not isinstance(operation, Put | Incr | Patch):
        return 0
    entry = keyspace.find_entry(operation.key)
    size = size_of(operation) + _NUMBER_BYTES * isinstance(operation, Incr)
    if entry is None or isinstance(operation, Patch):
        return size
    return max(size - len(operation.key) - entry[SIZE], 0)
