"""Everything a shard decides, in any order, against an oracle of plain items."""

from __future__ import annotations

import random
from array import array
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shards.keys import rules
from shards.keys.budget import Starved
from shards.keys.entries import Entry, Totals
from shards.keys.eviction import STAMPS, Evictor
from shards.keys.group import Group
from shards.keys.keyspace import Keyspace
from shards.server import proposals
from shards.server.room import Room, WritePolicy
from shards.wire.clock import Now
from shards.wire.outcomes import OutcomeRecord
from shards.wire.protocol import (
    AtomicBatch,
    Condition,
    Delete,
    Deleted,
    DeleteEvent,
    DeletePrefix,
    Done,
    Evict,
    Expire,
    Failed,
    Get,
    Incr,
    OfOneKey,
    Once,
    Patch,
    Put,
    Replayed,
    Reply,
    Results,
    Touch,
    size_of,
)
from tests.unit.oracle import Item, Known, Memory, Oracle, text_of

MAX_VALUE = 40
NOW = 1_700_000_000_000

SLOTMATES = [b"t", b"{t}1", b"a/{t}2", "ü{t}".encode()]
KEYS = st.sampled_from([*SLOTMATES, b"a", b"a/1"])
NAMES = st.sampled_from(["a", "b", "ü"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "x", "ä\n"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)
DOCUMENTS = st.dictionaries(NAMES, JSON, max_size=3)
NUMBERS = st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1), st.sampled_from([2**63 - 1, -(2**63)]))
VALUES = st.one_of(
    st.binary(max_size=MAX_VALUE + 3),
    NUMBERS.map(lambda number: b"%d" % number),
    st.sampled_from([b"-0", b"007", b"+1", b"9223372036854775808", b"1 ", b"\xff", b"{", b""]),
    (JSON | DOCUMENTS).map(text_of),
)
TYPES = st.sampled_from(["", "a/b", "application/json"])
TTLS = st.integers(0, 6)
IDENTITIES = st.sampled_from([b"i" * 18, b"j" * 18])
FINGERPRINTS = st.sampled_from([b"f" * 16, b"f" * 16, b"g" * 16])
REVISIONS = st.none() | st.just("*") | st.lists(st.integers(0, 40), max_size=12)
CONDITIONS = st.none() | st.none() | st.builds(Condition, REVISIONS, REVISIONS)


def operations(keys: st.SearchStrategy[bytes]) -> st.SearchStrategy[OfOneKey]:
    return st.one_of(
        st.builds(Put, keys, VALUES, TYPES, TTLS, st.just(0), st.booleans(), CONDITIONS),
        st.builds(Put, keys, VALUES, TYPES, st.just(0), TTLS.map(lambda ms: NOW + 1000 + ms), st.just(False)),
        st.builds(Delete, keys, st.booleans(), CONDITIONS),
        st.builds(Touch, keys, TTLS, st.just(0), CONDITIONS),
        st.builds(Incr, keys, NUMBERS, TTLS, CONDITIONS),
        st.builds(Patch, keys, (JSON | DOCUMENTS).map(text_of), CONDITIONS),
        st.builds(Get, keys, st.just(1), CONDITIONS),
    )


def entry_of(item: Item) -> Entry:
    return item.revision, item.value_revision, item.expires_ms, len(item.value)


def told(reply: Reply) -> Any:
    """A reply without its prose."""
    if isinstance(reply, Replayed):
        return told(reply.reply), reply.withheld
    if isinstance(reply, Results):
        return [told(each) for each in reply.replies], reply.failed
    return Failed(reply.code, "", reply.revision) if isinstance(reply, Failed) else reply


class Against(RuleBasedStateMachine):
    """The keyspace of a shard that has just started, against the oracle. Groups are committed or undone at random.

    Between them, as it happens, recent entries are left to the map, and the keys are surveyed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.items: dict[bytes, Item] = {}  # what the map holds: all that is committed
        self.now = Now(NOW, 3 * NOW)
        self.revision = 1  # the next one
        self.group: Group | None = None
        self.oracle: Oracle | None = None
        self.awaited: list[tuple[Reply, Reply]] = []
        self.room = Room()
        self.outcomes: dict[bytes, OutcomeRecord] = {}
        self.known: dict[bytes, Known] = {}

    def read(self, key: bytes) -> tuple[bytes, str]:
        return self.items[key].value, self.items[key].content_type

    def find(self, key: bytes) -> Entry | None:
        return entry_of(self.items[key]) if key in self.items else None

    def walk(self, after: bytes | None, steps: int, expiring: bool) -> tuple[list[tuple[bytes, Entry]], bytes | None]:
        passed = sorted(key for key in self.items if after is None or key > after)[:steps]
        found = [(key, entry_of(self.items[key])) for key in passed]
        return [each for each in found if each[1][2] or not expiring], passed[-1] if len(passed) == steps else None

    @initialize(
        loaded=st.dictionaries(KEYS, st.tuples(VALUES, TTLS, st.booleans())),
        max_memory=st.sampled_from([0, 20, 40, 80]),
        evicting=st.none() | st.integers(1, 4),
    )
    def load(self, loaded: dict[bytes, tuple[bytes, int, bool]], max_memory: int, evicting: int | None) -> None:
        for number, (key, (value, ttl_ms, steady)) in enumerate(loaded.items(), 1):
            expiry = -(self.now.steady_ms + ttl_ms) if steady else self.now.wall_ms + ttl_ms
            self.items[key] = Item(value, "", ttl_ms and expiry, number, number)
        self.revision = len(loaded) + 1
        stamps = memoryview(array("I", bytes(4 * STAMPS)))
        self.space = Keyspace(
            0,
            1,
            MAX_VALUE,
            self.read,
            find_entry=self.find,
            list_entries=self.walk,
            totals=self.totals(),
            find_outcome=self.outcomes.get,
            max_memory=max_memory,
            evictor=Evictor(stamps, random.Random(1).random, evicting) if max_memory and evicting else None,
        )

    def totals(self) -> Totals:
        sizes = [len(key) + len(item.value) for key, item in self.items.items()]
        return Totals(len(sizes), sum(sizes), sum(item.expires_ms != 0 for item in self.items.values()))

    @precondition(lambda self: self.group is None)
    @rule(most=st.integers(0, 4))
    def forget(self, most: int) -> None:
        self.space.forget_oldest(most)

    @precondition(lambda self: self.group is None and not self.space.is_surveyed)
    @rule(steps=st.integers(1, 3))
    def survey(self, steps: int) -> None:
        self.space.survey(steps)

    @precondition(lambda self: self.group is None)
    @rule(
        elapsed_ms=st.integers(0, 4),
        step_ms=st.sampled_from([0, 0, 0, 5, -5]),
        policy=st.sampled_from([WritePolicy.ALL] * 4 + [WritePolicy.NO_GROWTH, WritePolicy.DELETES]),
        others=st.sampled_from([0, 0, 0, 9, 100]),
        size=st.sampled_from([1 << 40, 30, 0]),
        alone=st.booleans(),
    )
    def begin(self, elapsed_ms: int, step_ms: int, policy: WritePolicy, others: int, size: int, alone: bool) -> None:
        """`step_ms`: the wall clock was set by so much meanwhile. `alone`: the shard evicts what it needs."""
        self.now = Now(self.now.wall_ms + elapsed_ms + step_ms, self.now.steady_ms + elapsed_ms)
        self.room = Room(policy)
        self.group = Group(self.space, self.now, others, size, self.room.remembered_bytes)
        self.group.memory.shrinks = alone
        self.size_left = size
        memory, limit = None, self.space.max_memory
        if limit:
            memory = Memory(limit, others, limit, self.space.evicts)
        self.most_bytes = max(limit - others, self.space.bytes) if limit else 1 << 40
        self.oracle = Oracle(self.items, self.now, self.revision, MAX_VALUE, policy, memory, self.known)
        self.oracle.shrinks = alone
        self.awaited = []

    @precondition(lambda self: self.group is None)
    @rule()
    def age(self) -> None:
        """Half the time for which outcomes are kept passes, for them alone."""
        for identity, outcome in self.outcomes.items():
            self.outcomes[identity] = outcome._replace(steady_ms=outcome.steady_ms - 300_000)
        for identity, known in self.known.items():
            self.known[identity] = known._replace(steady_ms=known.steady_ms - 300_000)

    @precondition(lambda self: self.group is not None and not self.group.events)
    @rule(limit=st.integers(1, 3))
    def expire(self, limit: int) -> None:
        assert self.group and self.oracle
        due = [key for key in self.items if self.oracle.live(key) is None]
        proposals.expire_due(self.group, limit)
        if self.space.is_surveyed:  # then the order does not depend on how the keys came to expire
            first = sorted(due, key=lambda key: ((expiry := self.items[key].expires_ms) > 0, abs(expiry), key))
            assert [event.key for event in self.group.events if isinstance(event, DeleteEvent)] == first[:limit]
        for event in self.group.events:
            assert isinstance(event, DeleteEvent) and event.cause == "expire" and event.key in due
            self.oracle.log(event)

    @precondition(lambda self: self.group is not None)
    @rule(operation=operations(KEYS))
    def decide(self, operation: OfOneKey | AtomicBatch | Once) -> None:
        """Decide, and evict for it."""
        assert self.group and self.oracle
        self.size_left -= sum(size_of(each) for each in self.single(operation) if isinstance(each, Put))
        if self.size_left < 0:
            return
        reply = self.room.decide(self.group, operation)
        expected = self.oracle.answer(operation)
        if isinstance(reply, Starved):
            assert reply.needed == self.oracle.needed > 0
            assert self.group.events == self.oracle.events
            if not self.group.memory.shrinks:
                return
            reply = self.evict(operation, reply)
            if isinstance(reply, Starved):
                self.commit()
                return
            self.oracle.shrinks = False
            expected = self.oracle.answer(operation)
            self.oracle.shrinks = True
            if self.oracle.needed:
                assert isinstance(reply, Failed) and reply.code == "memory_limit"
                return
        assert not self.oracle.needed
        assert self.group.events == self.oracle.events
        assert type(reply) is type(expected)
        self.awaited.append((reply, expected))
        if self.group.load.is_full:
            self.commit()

    def evict(self, operation: OfOneKey | AtomicBatch | Once, starved: Starved) -> Reply | Starved:
        """Let the shard evict what `operation` needs. The oracle takes over which keys these are, if they may be."""
        assert self.group and self.oracle and self.space.evictor
        begin, gone = len(self.group.events), self.group.evicted
        spared = {each.key for each in self.single(operation)} | self.group.staged.changes.keys()
        others = {key: len(key) + len(item.value) for key, item in self.items.items() if key not in spared}
        reply = proposals.decide_starved(self.group, operation, starved, self.room.decide)
        evicted = self.group.events[begin : begin + self.group.evicted - gone]
        sizes = []
        for event in evicted:
            assert isinstance(event, DeleteEvent)
            assert event.cause == ("evict" if self.oracle.live(event.key) else "expire")
            sizes.append(others.pop(event.key))
            self.oracle.log(event)
        assert sum(sizes[:-1]) < starved.needed
        if isinstance(reply, Starved):
            assert self.group.events == self.oracle.events
            assert self.group.evicted == self.space.evictor.max_per_group or (not sizes and self.group.events)
        elif not self.group.events:
            assert sum(others.values()) < starved.needed
        return reply

    @precondition(lambda self: self.group is not None)
    @rule(
        keys=st.lists(st.tuples(KEYS, st.integers(0, 3)), max_size=3),
        kind=st.sampled_from([Expire, Evict]),
    )
    def propose(self, keys: list[tuple[bytes, int]], kind: type[Expire] | type[Evict]) -> None:
        """As another machine would: some keys have another revision meanwhile."""
        assert self.group and self.oracle
        named = [(key, self.items[key].revision + (back == 0) if key in self.items else 1) for key, back in keys]
        reply, expected = rules.decide(self.group, kind(named)), self.oracle.propose(kind(named))
        assert isinstance(reply, Done) and self.group.events == self.oracle.events
        self.awaited.append((reply, expected))

    @precondition(lambda self: self.group is not None)
    @rule(operation=operations(KEYS), identity=IDENTITIES, fingerprint=FINGERPRINTS)
    def decide_once(self, operation: OfOneKey, identity: bytes, fingerprint: bytes) -> None:
        if not isinstance(operation, Get):
            self.decide(Once(operation, identity, fingerprint))

    @precondition(lambda self: self.group is not None)
    @rule(
        batch=st.lists(operations(st.sampled_from(SLOTMATES)), max_size=5),
        identity=IDENTITIES,
        fingerprint=FINGERPRINTS,
    )
    def decide_together_once(self, batch: list[OfOneKey], identity: bytes, fingerprint: bytes) -> None:
        self.decide(Once(AtomicBatch(batch), identity, fingerprint))

    def single(self, operation: OfOneKey | AtomicBatch | Once) -> list[OfOneKey]:
        if isinstance(operation, Once):
            operation = operation.operation
        return operation.operations if isinstance(operation, AtomicBatch) else [operation]

    @precondition(lambda self: self.group is not None)
    @rule(batch=st.lists(operations(st.sampled_from(SLOTMATES)), max_size=5))
    def decide_together(self, batch: list[OfOneKey]) -> None:
        self.decide(AtomicBatch(batch))

    @precondition(lambda self: self.group is not None)
    @rule(batch=st.lists(operations(KEYS), min_size=1, max_size=3))
    def decide_across_slots(self, batch: list[OfOneKey]) -> None:
        self.decide(AtomicBatch(batch))

    @precondition(lambda self: self.group is not None and not self.group.events)
    @rule(prefix=st.sampled_from([b"", b"a", b"a/", b"z"]), back=st.integers(-1, 8))
    def delete_prefix(self, prefix: bytes, back: int) -> None:
        assert self.group and self.oracle
        cut = self.revision - back
        candidates = sorted((key, entry_of(item)) for key, item in self.items.items() if key.startswith(prefix))
        expected = [key for key, _ in candidates if (item := self.oracle.live(key)) and item.value_revision <= cut]
        reply = rules.delete_prefix(self.group, DeletePrefix(prefix, b"", cut, 100), candidates, None)
        assert reply == Deleted(expected, None)
        for key in expected:
            self.oracle.log(DeleteEvent(key, "prefix", cut))
        assert self.group.events == self.oracle.events

    @precondition(lambda self: self.group is not None)
    @rule()
    def commit(self) -> None:
        assert self.group and self.oracle
        outcomes = self.group.outcomes
        assert self.group.record() == [*self.oracle.logged, *outcomes]
        assert all(outcome.at < len(self.oracle.events) for outcome in outcomes)
        wanted = self.group.commit(self.revision)
        for outcome in outcomes:
            self.outcomes[outcome.identity] = OutcomeRecord.of(outcome, self.revision, self.now)
        self.known = self.oracle.known
        for identity, known in self.known.items():
            assert told(self.outcomes[identity].decode_reply()) == told(known.reply)
        old = self.replaced()
        self.group.replies.fill_old_values({revision: old[revision] for revision in wanted})
        for reply, expected in self.awaited:
            assert told(reply) == told(expected)
        self.items = self.oracle.items
        self.revision += len(self.oracle.events)
        assert self.space.bytes <= self.most_bytes
        self.group = None

    def replaced(self) -> dict[int, tuple[bytes, str, int]]:
        """What each event of the group replaced, as the map would say when they are applied."""
        assert self.oracle
        walk, old = Oracle(self.items, self.now, self.revision, MAX_VALUE, WritePolicy.ALL), {}
        for event in self.oracle.events:
            assert not hasattr(event, "prefix")
            there = walk.live(event.key)
            revision = walk.log(event)
            if there:
                old[revision] = (there.value, there.content_type, there.revision)
        return old

    @precondition(lambda self: self.group is not None)
    @rule()
    def discard(self) -> None:
        assert self.group
        self.group.discard()
        self.group = None

    @invariant()
    def agrees(self) -> None:
        if self.group is not None:
            return  # what was due is not scheduled while its group is open
        self.space.check({key: entry_of(item) for key, item in self.items.items()})
        assert (len(self.space), self.space.bytes, self.space.expiring) == self.totals()
        if not self.space.is_surveyed:
            return
        wall_ms, steady_ms = self.now
        due_in_ms = [
            expiry - wall_ms if expiry > 0 else -expiry - steady_ms
            for item in self.items.values()
            if (expiry := item.expires_ms)
        ]
        told_ms = self.space.expiries.due_in_ms(self.now)
        assert not due_in_ms or (told_ms is not None and told_ms <= min(due_in_ms))


TestAgainst = Against.TestCase
