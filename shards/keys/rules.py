"""The rules by which each operation is decided: what it is refused for, what it logs, what it answers. Pure.

Each rule works on an open `Group`, which holds what earlier operations decided: checks first, effects last. An
operation that raises has changed nothing.

What is decided depends on the keys, the operations of the group and its time alone. Room, chance and other clocks have
no say: where they have one, they have it before, by what is proposed (see `shards.server.proposals`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from shards.keys import value_edits
from shards.keys.budget import Starved
from shards.keys.entries import EXPIRY, REVISION, SIZE, VALUE_REVISION, Entry, is_live
from shards.keys.group import Group
from shards.keys.keyspace import Keyspace
from shards.wire.clock import unix_ms
from shards.wire.errors import (
    BadKey,
    BadRequest,
    BatchTooLarge,
    CrossSlot,
    KVError,
    NotAnInteger,
    NotFound,
    PreconditionFailed,
    ProtocolError,
    ValueTooLarge,
)
from shards.wire.keys import MAX_KEY, check_utf8, expiry, is_content_type, slot_of
from shards.wire.protocol import (
    BATCH_OPS,
    PATCH_WORK_BYTES,
    RECORD_BYTES,
    REMEMBERED_BYTES,
    AtomicBatch,
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
    MarkPrefix,
    OfOne,
    OfOneKey,
    Once,
    Operation,
    Patch,
    PrefixMarked,
    Put,
    PutEvent,
    Remembered,
    Replaced,
    Reply,
    Results,
    Touch,
    TouchEvent,
    Value,
)

SMALL_VALUE: Final = 4 << 10
"""Bytes of a value that is put or touched without being counted as work: a group has at most some thousand of them."""

_NOT_DONE = Failed("failed_dependency")


def decide(group: Group, operation: Operation) -> Reply | Starved:
    """Decide one operation, which is not a `DeletePrefix`.

    Returns its reply; a refusal is a `Failed`, and leaves the group unchanged, as `Starved` does. The revisions in a
    reply are right after `Group.commit`, old values after `PendingReplies.fill_old_values`.
    """
    try:
        reply: Reply = _RULES[type(operation)](group, operation)
        return reply
    except KVError as error:
        failed = Failed.of(error)
        group.replies.await_revision(failed)
        return failed


def decide_put(group: Group, operation: Put) -> Done | Starved:
    """Set value, type and expiry. If the key has expired and is not deleted yet, its expiry is logged first."""
    keyspace, key, size, now = group.keyspace, operation.key, len(operation.value), group.now
    _check_key(keyspace, key)
    if size > keyspace.max_value:
        raise ValueTooLarge(f"the value has {size} bytes, at most {keyspace.max_value} are allowed")
    if operation.content_type and not is_content_type(operation.content_type):
        raise BadRequest("the content type is not a media type of RFC 9110 in at most 255 ASCII characters")
    ends = 0
    if operation.expires_ms or operation.ttl_ms:
        ends = expiry(operation.ttl_ms, operation.expires_ms, now)
    old = group.staged.lookup(key)
    if operation.condition is not None:
        operation.condition.check(group.live_revision(old))
    if group.checks_memory and _grows(size, old) and (needed := group.admit_growth(key, size, old)):
        return Starved(needed)
    if size > SMALL_VALUE:
        group.load.count_work(size)
    existed = wants_old = False
    if old is not None:
        if is_live(old, now):
            existed, wants_old = True, operation.want_previous
            if wants_old:
                group.replies.count_answer(old[SIZE])
        else:
            group.expire_key(key, old)
            old = None
    revision = group.log(PutEvent(key, operation.value, operation.content_type, ends))
    group.staged.stage(key, old, (revision, revision, ends, size))
    return group.replies.add_done(revision, existed, wants_old, ends)


def decide_delete(group: Group, operation: Delete) -> Done:
    """Delete a key. Nothing is logged for an absent one."""
    key = operation.key
    _check_key(group.keyspace, key)
    old = group.staged.lookup(key)
    if old is None or not is_live(old, group.now):
        return Done(0, False)
    if operation.condition is not None:
        operation.condition.check(group.live_revision(old))
    if operation.want_previous:
        group.replies.count_answer(old[SIZE])
    revision = group.log(DeleteEvent(key, "request"))
    group.staged.stage(key, old, None)
    return group.replies.add_done(revision, True, operation.want_previous)


def decide_touch(group: Group, operation: Touch) -> Done:
    """Change the expiry alone. Nothing is logged for an absent key."""
    key = operation.key
    _check_key(group.keyspace, key)
    ends = expiry(operation.ttl_ms, operation.expires_ms, group.now)
    old = group.staged.lookup(key)
    if old is None or not is_live(old, group.now):
        return Done(0, False)
    if operation.condition is not None:
        operation.condition.check(group.live_revision(old))
    if old[SIZE] > SMALL_VALUE and not _is_touched(old):
        group.load.count_work(old[SIZE])
    revision = group.log(TouchEvent(key, ends))
    group.staged.stage(key, old, (revision, old[VALUE_REVISION], ends, old[SIZE]))
    return group.replies.add_done(revision, True, False, ends)


def is_no_work(group: Group, operation: Operation) -> bool:
    """Whether even a full group can take `operation`: the touch of a key that the group has touched last."""
    return type(operation) is Touch and _is_touched(group.staged.changes.get(operation.key))


def decide_incr(group: Group, operation: Incr) -> Value | Starved:
    """Add to a number. A new key starts at 0, as text: browsers show it, and it is unambiguous."""
    key = operation.key
    _check_key(group.keyspace, key)
    if not value_edits.MIN_INTEGER <= operation.by <= value_edits.MAX_INTEGER:
        raise BadRequest("the increment does not fit a signed integer of 64 bits")
    ends = expiry(operation.ttl_ms, 0, group.now)
    old = group.staged.lookup(key)
    if operation.condition is not None:
        operation.condition.check(group.live_revision(old))
    if old is None or not is_live(old, group.now):
        return _put_result(group, key, old, value_edits.add(b"0", operation.by), "text/plain", ends)
    if old[SIZE] > value_edits.INTEGER_BYTES:
        raise NotAnInteger(f"the value has {old[SIZE]} bytes")
    value, content_type = group.value_of(key, old)
    return _put_result(group, key, old, value_edits.add(value, operation.by), content_type, old[EXPIRY])


def decide_patch(group: Group, operation: Patch) -> Value | Starved:
    """Merge JSON into a value. A new key gets JSON's content type, as this server has made its value; an existing one
    keeps its type, which may be more specific (`application/geo+json`)."""
    key = operation.key
    _check_key(group.keyspace, key)
    old = group.staged.lookup(key)
    if operation.condition is not None:
        operation.condition.check(group.live_revision(old))
    if old is None or not is_live(old, group.now):
        return _put_result(group, key, old, value_edits.merge_patch(None, operation.patch), "application/json", 0)
    group.load.count_work(old[SIZE])
    value, content_type = group.value_of(key, old)
    return _put_result(group, key, old, value_edits.merge_patch(value, operation.patch), content_type, old[EXPIRY])


def answer_get(group: Group, operation: Get) -> Value:
    """Answer what the key holds after the decisions of the group so far, if the condition holds."""
    key = operation.key
    _check_key(group.keyspace, key)
    entry = group.staged.lookup(key)
    if operation.condition is not None:
        operation.condition.check(group.live_revision(entry))
    if entry is None or not is_live(entry, group.now):
        return Value(0, False)
    group.replies.count_batch_answer(operation.batch, entry[SIZE])
    if group.keyspace.evictor is not None:
        group.keyspace.evictor.record_read(key, group.now.steady_ms)
    value, content_type = group.value_of(key, entry)
    reply = Value(entry[REVISION], True, value, content_type, unix_ms(entry[EXPIRY], group.now))
    group.replies.await_revision(reply)
    return reply


def decide_batch(group: Group, batch: AtomicBatch) -> Results | Starved:
    """Do all operations, or none of them if one fails.

    A get or delete of an absent key succeeds; a touch of one fails, and so does a get or delete that requires the key
    to exist. If the store refuses an operation for lack of memory or for overload, the whole batch is refused with
    that.
    """
    operations = batch.operations
    if len(operations) > BATCH_OPS:
        raise BatchTooLarge(f"the batch has {len(operations)} operations")
    if len({slot_of(operation.key) for operation in operations}) > 1:
        raise CrossSlot
    begin, begin_bytes = len(group.events), group.load.weigh(group.events)
    undo = group.set_savepoint([operation.key for operation in operations])
    group.batch_excess = 0
    replies: list[OfOne] = []
    patched = touched = 0
    for operation in operations:
        work_before = group.load.work_bytes
        reply = _decide_in_batch(group, operation, begin)
        if isinstance(reply, Failed):
            undo()
            if (error := reply.error()).status >= 500:  # the store's condition, not a fault of this operation
                raise error
            return _refuse_batch(group, operations, len(replies), reply)
        replies.append(reply)
        if type(operation) is Touch:
            touched += group.load.work_bytes - work_before
        if group.load.weigh(group.events) - begin_bytes + touched > RECORD_BYTES:
            undo()
            raise BatchTooLarge
        if type(operation) is Patch:
            patched += group.load.work_bytes - work_before
            if patched > PATCH_WORK_BYTES:
                undo()
                raise BatchTooLarge(f"its patches read and write more than {PATCH_WORK_BYTES} bytes")
    if group.batch_excess:
        return _starve_batch(group, operations, undo)
    if len(group.events) - begin > 1:
        group.batch_spans.append((begin, len(group.events)))
    return Results(replies)


def decide_once(group: Group, once: Once) -> Reply | Starved:
    """Do an operation, unless its identity was done before: then answer as then, and do nothing.

    What is refused, or changes nothing, is not remembered: a repeat is decided from scratch.
    """
    replayed = group.find_replay(once)
    if replayed is not None:
        return replayed
    operation, begin = once.operation, len(group.events)
    replaced = _read_replaced(group, operation)
    reply: Remembered | Starved = _RULES[type(operation)](group, operation)
    if isinstance(reply, Starved) or len(group.events) == begin:
        return reply
    if isinstance(reply, Results) and reply.failed is not None:
        return reply
    if replaced is not None and isinstance(reply, Replaced):
        replaced.revision, replaced.expires_ms = reply.revision, reply.expires_ms
        group.remember(once, replaced)
    else:
        group.remember(once, reply)
    return reply


def mark_prefix(group: Group, operation: MarkPrefix) -> Done:
    """Log that deletes of a prefix follow. The revision of this event is their cut."""
    check_utf8(operation.prefix, "prefix")
    revision = group.log(PrefixMarked(operation.prefix))
    return group.replies.add_done(revision, False, False)


def expire_keys(group: Group, operation: Expire) -> Done:
    """Delete those of the keys that still have the revision they were proposed with, and have expired at the group's
    time."""
    there = group.find_proposed(operation.keys).items()
    return group.delete_due([(key, entry) for key, entry in there if not is_live(entry, group.now)])


def evict_keys(group: Group, operation: Evict) -> Done:
    """Delete those of the keys that still have the revision they were proposed with."""
    return group.delete_victims(group.find_proposed(operation.keys).items())


def delete_prefix(
    group: Group, operation: DeletePrefix, candidates: Sequence[tuple[bytes, Entry]], next: bytes | None
) -> Deleted:
    """Delete those of `candidates`, keys in order with their committed entries, that are live and whose value is not
    newer than the cut. The group is new.

    Returns the reply: the deleted keys, and `next`, unchanged.
    """
    cut = operation.cut
    deleted = []
    for key, entry in candidates:
        # The value's revision counts: a touch after the cut does not save a key.
        if entry[VALUE_REVISION] <= cut and is_live(entry, group.now):
            group.log(DeleteEvent(key, "prefix", cut if operation.marked else 0))
            group.staged.stage(key, entry, None)
            deleted.append(key)
    return Deleted(deleted, next)


def _read_replaced(group: Group, operation: Operation) -> Replaced | None:
    """Return the old value that the reply to `operation` will carry, before it is decided; None if it will carry none.

    The reply itself gets its old value when the group is applied, which is too late for the log.
    """
    if not isinstance(operation, Put | Delete) or not operation.want_previous:
        return None
    old = group.staged.lookup(operation.key)
    if old is None or not is_live(old, group.now):
        return None
    if old[SIZE] > REMEMBERED_BYTES:
        return Replaced(0, True, None, 0, "", old[REVISION])
    value, content_type = group.value_of(operation.key, old)
    return Replaced(0, True, value, 0, content_type, old[REVISION])


def _decide_in_batch(group: Group, operation: OfOneKey, begin: int) -> OfOne:
    """Decide an operation of an atomic batch, whose first event has index `begin`. A `Failed` fails the batch."""
    group.batch_start = begin
    try:
        reply: OfOne = _RULES[type(operation)](group, operation)
    except KVError as error:
        return Failed.of(error)
    finally:
        group.batch_start = None
    must_exist = isinstance(operation, Touch) or (
        isinstance(operation, Delete) and operation.condition and operation.condition.if_match is not None
    )
    return reply if reply.revision or not must_exist else Failed.of(NotFound("the key does not exist"))


def _starve_batch(group: Group, operations: Sequence[OfOneKey], undo: Callable[[], None]) -> Starved:
    """Undo a batch that does not fit without evictions, and say how much it needs, all at once. Raises `MemoryLimit`
    if it can never fit."""
    needed, own = group.batch_excess, group.staged.bytes_of({operation.key for operation in operations})
    undo()
    if group.memory.may_ever_hold(own):
        return Starved(needed)
    raise group.memory.refuse_starved(needed)


def _refuse_batch(group: Group, operations: Sequence[OfOneKey], index: int, failed: Failed) -> Results:
    """Make the results of a batch that was undone because of `failed`, the reply to the operation at `index`."""
    if isinstance(failed.error(), PreconditionFailed):  # the revision it names may have been one of the undone batch
        failed.revision = group.live_revision(group.staged.lookup(operations[index].key))
        group.replies.await_revision(failed)
    replies: list[OfOne] = [_NOT_DONE] * len(operations)
    replies[index] = failed
    return Results(replies, index)


def _put_result(
    group: Group, key: bytes, old: Entry | None, value: bytes, content_type: str, ends: int
) -> Value | Starved:
    """Put a value that this server has computed, and answer with it."""
    size = len(value)
    if size > group.keyspace.max_value:
        raise ValueTooLarge(f"the result has {size} bytes, at most {group.keyspace.max_value} are allowed")
    if group.keyspace.max_memory:  # `put_bytes` does not include the sizes of results: check all puts from now on
        group.checks_memory = True
        if _grows(size, old) and (needed := group.admit_growth(key, size, old)):
            return Starved(needed)
    group.replies.count_answer(size)
    existed = is_live(old, group.now)
    if old is not None and not existed:
        group.expire_key(key, old)
        old = None
    revision = group.log(PutEvent(key, value, content_type, ends))
    group.staged.stage(key, old, (revision, revision, ends, size))
    group.load.weigh(group.events)
    reply = Value(revision, existed, value, content_type, unix_ms(ends, group.now))
    group.replies.await_revision(reply)
    return reply


def _check_key(keyspace: Keyspace, key: bytes) -> None:
    """Raise `BadKey`, `KeyTooLong` or `ProtocolError` unless `key` is valid and belongs to this shard."""
    if not 0 < len(key) <= MAX_KEY or not key.isascii():  # most keys are short ASCII and need no closer look
        if not key:
            raise BadKey("the key is empty")
        check_utf8(key, "key")
    if keyspace.owned_slots is not None and slot_of(key) not in keyspace.owned_slots:
        raise ProtocolError("the key belongs to another shard")


def _grows(size: int, old: Entry | None) -> bool:
    return old is None or size > old[SIZE]


def _is_touched(entry: Entry | None) -> bool:
    """Whether the last change of a key with `entry` is a touch of the open group. Its value is written again once,
    however many touches follow."""
    return entry is not None and entry[REVISION] < 0 and entry[REVISION] != entry[VALUE_REVISION]


_RULES: Final[dict[type[Operation], Callable[[Group, Any], Any]]] = {
    Put: decide_put,
    Delete: decide_delete,
    Touch: decide_touch,
    Incr: decide_incr,
    Patch: decide_patch,
    Get: answer_get,
    AtomicBatch: decide_batch,
    MarkPrefix: mark_prefix,
    Once: decide_once,
    Expire: expire_keys,
    Evict: evict_keys,
}
"""From the type of an operation to its rule, which returns the reply."""
