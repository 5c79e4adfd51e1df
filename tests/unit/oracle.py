"""What a shard must answer and log, worked out from plain items: an oracle that shares no code with the rules."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from shards.server.room import WritePolicy
from shards.wire.clock import Now
from shards.wire.keys import slot_of
from shards.wire.protocol import (
    Atomic,
    AtomicBatch,
    Change,
    Condition,
    Delete,
    DeleteEvent,
    Done,
    Event,
    Evict,
    Expire,
    Failed,
    Get,
    Incr,
    OfOne,
    OfOneKey,
    Once,
    Patch,
    Put,
    PutEvent,
    Remembered,
    Replaced,
    Replayed,
    Reply,
    Results,
    Touch,
    TouchEvent,
    Value,
)


class Item(NamedTuple):
    """What a key holds."""

    value: bytes
    content_type: str
    expires_ms: int
    revision: int
    value_revision: int


class Known(NamedTuple):
    """What was done once: for which request, the answer, when."""

    fingerprint: bytes
    reply: Remembered
    withheld: bool
    steady_ms: int


class Refused(Exception):
    """An operation is refused with `args[0]`, a code; `args[1]`, if there, is the revision that is there."""


class Memory(NamedTuple):
    """A limit: of all shards, what the others have, this one's fair share; and whether keys are evicted for it."""

    limit: int
    others: int
    fair_share: int
    evicts: bool


class Oracle:
    """One group. `items` and `events` are what they should be; revisions are real from the beginning."""

    def __init__(
        self,
        items: dict[bytes, Item],
        now: Now,
        first: int,
        max_value: int,
        policy: WritePolicy,
        memory: Memory | None = None,
        known: Mapping[bytes, Known] | None = None,
    ) -> None:
        self.items, self.now, self.first, self.max_value, self.policy = dict(items), now, first, max_value, policy
        self.memory, self.bytes_before = memory, self.held()
        self.shrinks = True  # whether it aims at the limit, or at what it held before
        self.in_batch = self.no_room = False
        self.needed = 0  # bytes to be evicted for the last operation
        self.known = dict(known or {})
        self.events: list[Change] = []
        self.logged: list[Event] = []

    def held(self) -> int:
        return sum(len(key) + len(item.value) for key, item in self.items.items())

    def live(self, key: bytes) -> Item | None:
        item = self.items.get(key)
        return item if item and not ended(item.expires_ms, self.now) else None

    def after(self, ttl_ms: int) -> int:
        """The expiry that a lifetime gives: a steady time, below 0."""
        return -(self.now.steady_ms + ttl_ms) if ttl_ms else 0

    def told(self, expiry: int) -> int:
        """The wall time of an expiry."""
        return expiry if expiry >= 0 else self.now.wall_ms + (-expiry - self.now.steady_ms)

    def log(self, event: Change) -> int:
        """Apply `event`; its revision."""
        revision = self.first + len(self.events)
        self.events.append(event)
        self.logged.append(event)
        if isinstance(event, PutEvent):
            self.items[event.key] = Item(event.value, event.content_type, event.expires_ms, revision, revision)
        elif isinstance(event, TouchEvent):
            self.items[event.key] = self.items[event.key]._replace(expires_ms=event.expires_ms, revision=revision)
        elif isinstance(event, DeleteEvent):
            del self.items[event.key]
        return revision

    def answer(self, operation: OfOneKey | AtomicBatch | Once) -> Reply:
        """The reply to `operation`, which is done; `needed` says whether keys must be evicted instead."""
        self.needed = 0
        return self.decide(operation)

    def decide(self, operation: OfOneKey | AtomicBatch | Once) -> Reply:
        if isinstance(operation, Once):
            return self.once(operation)
        if isinstance(operation, AtomicBatch):
            return self.batch(operation)
        try:
            return self.one(operation)
        except Refused as refused:
            return Failed(refused.args[0], "", *refused.args[1:])

    def once(self, once: Once) -> Reply:
        known = self.known.get(once.identity)
        if known is not None and self.now.steady_ms - known.steady_ms < 600_000:
            same = known.fingerprint == once.fingerprint
            return Replayed(known.reply, known.withheld) if same else Failed("idempotency_mismatch")
        reply = self.decide(once.operation)
        if self.needed:
            return reply
        if isinstance(reply, Results):
            done = any(
                not isinstance(operation, Get) and not isinstance(part, Failed) and part.revision
                for operation, part in zip(cast(AtomicBatch, once.operation).operations, reply.replies, strict=True)
            )
            kept: Remembered = Results(
                [Done(part.revision, part.existed) if isinstance(part, Done) else part for part in reply.replies]
            )
        else:
            assert isinstance(reply, Done | Value | Failed)
            done, kept = not isinstance(reply, Failed) and reply.revision != 0, cast(Remembered, reply)
        if done:
            self.known[once.identity] = Known(once.fingerprint, *self.remembered(kept), self.now.steady_ms)
        return reply

    def remembered(self, reply: Remembered) -> tuple[Remembered, bool]:
        """What is remembered of `reply`, and whether its values, which all are small, had to be left out."""
        parts = reply.replies if isinstance(reply, Results) else [reply]
        values = [part for part in parts if isinstance(part, Value)]
        size = sum(len(part.value) for part in values)
        if isinstance(reply, Results):
            size += sum(len(part.content_type) for part in values)
        elif isinstance(reply, Replaced):
            size += len(reply.previous or b"")
        if self.policy is WritePolicy.ALL or not size:
            return reply, False
        if isinstance(reply, Replaced):
            return Replaced(reply.revision, True, None, reply.expires_ms, "", reply.previous_revision), True
        bare = [Value(p.revision, p.existed, b"", "", p.expires_ms) if isinstance(p, Value) else p for p in parts]
        return (Results(bare) if isinstance(reply, Results) else cast(Remembered, bare[0])), True

    def batch(self, operation: AtomicBatch) -> Reply:
        if len({slot_of(each.key) for each in operation.operations}) > 1:
            return Failed("cross_slot")
        items, events, logged = dict(self.items), list(self.events), list(self.logged)
        self.in_batch, self.no_room = True, False
        replies: list[OfOne] = []
        for each in operation.operations:
            try:
                absent = self.live(each.key) is None
                replies.append(self.one(each))
                if_match = each.condition.if_match if isinstance(each, Delete) and each.condition else None
                if absent and (isinstance(each, Touch) or if_match is not None):
                    raise Refused("not_found")
            except Refused as refused:
                self.items, self.events, self.logged, self.in_batch, self.needed = items, events, logged, False, 0
                if refused.args[0] == "memory_limit":
                    return Failed("memory_limit" if self.policy is WritePolicy.ALL else "insufficient_storage")
                there = self.live(each.key)
                revision = there.revision if there and refused.args[0] == "precondition_failed" else 0
                results: list[OfOne] = [Failed("failed_dependency") for _ in operation.operations]
                index = len(replies) - (refused.args[0] == "not_found")
                results[index] = Failed(refused.args[0], "", revision)
                return Results(results, index)
        self.in_batch = False
        if self.no_room:  # which is seen when all of it is decided
            self.items, self.events, self.logged, self.needed = items, events, logged, 0
            return Failed("insufficient_storage")
        if self.needed:
            put = {event.key for event in self.events[len(events) :] if isinstance(event, PutEvent)} & self.items.keys()
            own = sum(len(key) + len(self.items[key].value) for key in put)
            self.items, self.events, self.logged = items, events, logged
            if own > self.most():
                self.needed = 0
                return Failed("memory_limit")
        elif len(self.events) - len(events) > 1:
            self.logged = [*logged, Atomic(self.events[len(events) :])]
        return Results(replies)

    def one(self, operation: OfOneKey) -> OfOne:
        old = self.live(operation.key)
        match operation:
            case Get(condition=condition):
                self.check(condition, old)
                if old is None:
                    return Value(0, False)
                return Value(old.revision, True, old.value, old.content_type, self.told(old.expires_ms))
            case Delete() | Touch() if old is None:
                return Done(0, False)
            case Put(value=value) if len(value) > self.max_value:
                raise Refused("value_too_large")
        self.check(operation.condition, old)
        match operation:
            case Delete(key=key, want_previous=want):
                return self.done(self.log(DeleteEvent(key, "request")), old, want)
            case Touch(key=key):
                if self.policy is WritePolicy.DELETES:
                    self.want_room()
                expires_ms = operation.expires_ms or self.after(operation.ttl_ms)
                return Done(self.log(TouchEvent(key, expires_ms)), True, None, self.told(expires_ms))
            case Put(key=key, value=value, want_previous=want):
                expires_ms = operation.expires_ms or self.after(operation.ttl_ms)
                return self.done(self.write(key, value, operation.content_type, expires_ms), old, want, expires_ms)
            case Incr(key=key, by=by):
                number = number_of(old.value) + by if old else by
                if not -(2**63) <= number < 2**63:
                    raise Refused("overflow")
                value, kind = str(number).encode(), "text/plain"
                expires_ms = self.after(operation.ttl_ms)
            case Patch(key=key, patch=patch):
                try:
                    document = json.loads(old.value) if old else {}
                except ValueError:
                    raise Refused("not_json") from None
                value, kind, expires_ms = text_of(merged(document, json.loads(patch))), "application/json", 0
                if len(value) > self.max_value:
                    raise Refused("value_too_large")
        if old:
            kind, expires_ms = old.content_type, old.expires_ms
        return Value(self.write(key, value, kind, expires_ms), old is not None, value, kind, self.told(expires_ms))

    def write(self, key: bytes, value: bytes, content_type: str, expires_ms: int) -> int:
        there = self.items.get(key)  # an expired one counts until it is deleted
        grows = there is None or len(value) > len(there.value)
        if self.policy is WritePolicy.DELETES or (self.policy is WritePolicy.NO_GROWTH and grows):
            self.want_room()
        if self.memory and grows:
            self.fit(self.memory, key, len(value))
        if there and self.live(key) is None:
            self.log(DeleteEvent(key, "expire"))
        return self.log(PutEvent(key, value, content_type, expires_ms))

    def want_room(self) -> None:
        """Refuse an operation for which there is no room: a batch at its end."""
        self.no_room = True
        if not self.in_batch:
            raise Refused("insufficient_storage")

    def propose(self, operation: Expire | Evict) -> Done:
        """Delete keys as a shard proposes it to itself."""
        revision = 0
        for key, there in operation.keys:
            item = self.items.get(key)
            if item is None or item.revision != there or there >= self.first:
                continue
            if self.live(key) is None:
                revision = self.log(DeleteEvent(key, "expire"))
            elif isinstance(operation, Evict):
                revision = self.log(DeleteEvent(key, "evict"))
        return Done(revision, revision > 0)

    def most(self) -> int:
        """Bytes that the shard may hold in the end."""
        assert self.memory
        free = self.memory.limit - self.memory.others
        return max(free, self.bytes_before) if self.memory.evicts else free

    def fit(self, memory: Memory, key: bytes, size: int) -> None:
        """Let `key` have `size` bytes, or see how much must go for it."""
        there = self.items.get(key)
        growth = size - len(there.value) if there else len(key) + size
        goal = memory.limit - memory.others
        if memory.evicts and self.shrinks:
            goal = max(goal, min(self.bytes_before, memory.fair_share))
        elif memory.evicts:
            goal = self.most()
        if self.held() + growth <= goal:
            return
        if not memory.evicts or len(key) + size > self.most():
            raise Refused("memory_limit")
        self.needed = max(self.needed, self.held() + growth - goal)
        if not self.in_batch:
            raise Refused("starved")

    def done(self, revision: int, old: Item | None, want: bool, expires_ms: int = 0) -> Done:
        if old and want:
            return Replaced(revision, True, old.value, self.told(expires_ms), old.content_type, old.revision)
        return Done(revision, old is not None, None, self.told(expires_ms))

    def check(self, condition: Condition | None, old: Item | None) -> None:
        if condition is None:
            return
        there = old.revision if old else 0
        known = there if there < self.first else -1  # nobody can have heard of a revision of this very group
        for revisions, wanted in ((condition.if_match, True), (condition.if_none_match, False)):
            if revisions is not None:
                found = old is not None and (revisions == "*" or known in revisions)
                if found != wanted:
                    raise Refused("precondition_failed", there)


def ended(expiry: int, now: Now) -> bool:
    """Whether what has this expiry is over."""
    return 0 < expiry <= now.wall_ms or (expiry < 0 and -expiry <= now.steady_ms)


def number_of(value: bytes) -> int:
    if not re.fullmatch(rb"-?(0|[1-9][0-9]*)", value) or not -(2**63) <= int(value) < 2**63:
        raise Refused("not_an_integer")
    return int(value)


def text_of(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2, word for word."""
    if isinstance(patch, dict):
        if not isinstance(target, dict):
            target = {}
        for name, value in patch.items():
            if value is None:
                if name in target:
                    del target[name]
            else:
                target[name] = merged(target.get(name), value)
        return target
    return patch
