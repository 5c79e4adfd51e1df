"""The rules by which each operation is decided: what it is refused for, what it logs, what it answers. Pure.

They work on an open `Group`, which knows what the operations before decided. An operation that raises has left nothing
but evictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from shards.keys import value_edits
from shards.keys.entries import Entry, Room, is_live
from shards.wire.clock import unix_ms
from shards.wire.errors import (
    AnswerTooLarge,
    BadKey,
    BadRequest,
    BatchTooLarge,
    CrossSlot,
    InsufficientStorage,
    KVError,
    NotAnInteger,
    NotFound,
    PreconditionFailed,
    ProtocolError,
    ValueTooLarge,
)
from shards.wire.keys import MAX_KEY, check_utf8, expiry, is_content_type, slot_of
from shards.wire.protocol import (
    ANSWER_BYTES,
    BATCH_OPS,
    PATCH_WORK_BYTES,
    RECORD_BYTES,
    AtomicBatch,
    Condition,
    Delete,
    Deleted,
    DeleteEvent,
    DeletePrefix,
    Done,
    Failed,
    Get,
    Incr,
    MarkPrefix,
    OfOne,
    OfOneKey,
    Operation,
    Patch,
    PrefixMarked,
    Put,
    PutEvent,
    Reply,
    Results,
    Revisions,
    Touch,
    TouchEvent,
    Value,
)

if TYPE_CHECKING:
    from shards.keys.group import Group

SMALL_VALUE = 4 << 10
"""Bytes of a value that is put without being counted: a group has no more than some thousand."""

_NOT_DONE = Failed("failed_dependency")
_MAP_FULL = "the map cannot grow any more"


def decide(group: Group, operation: Operation) -> Reply:
    """Decide one operation. Revisions in the reply are right after `commit`, and so are the old values after
    `answer`; a refusal is a `Failed` and leaves the group as it was. `DeletePrefix` has a method of its own."""
    try:
        reply: Reply = _RULES[type(operation)](group, operation)
        return reply
    except KVError as error:
        group.refused += 1
        failed = Failed.of(error)
        if failed.revision < 0:
            group.numbered.append(failed)
        return failed


def put(group: Group, operation: Put) -> Done:
    """Set value, type and expiry. An expired key that is not deleted yet expires first."""
    key, size, now = operation.key, len(operation.value), group.now
    _check_key(group, key)
    if size > group.keyspace.max_value:
        raise ValueTooLarge(f"the value has {size} bytes, at most {group.keyspace.max_value} are allowed")
    if operation.content_type and not is_content_type(operation.content_type):
        raise BadRequest("the content type is not a media type of RFC 9110 in at most 255 ASCII characters")
    ends = 0
    if operation.expires_ms or operation.ttl_ms:
        ends = expiry(operation.ttl_ms, operation.expires_ms, now)
    old = group.entry(key)
    if operation.condition is not None:
        _check_condition(group, operation.condition, old)
    if group.guarded:
        _check_room(group, key, size, old)
    if size > SMALL_VALUE:
        group.count_work(size)
    existed = wanted = False
    if old is not None:
        if is_live(old, now):
            existed, wanted = True, operation.want_previous
            if wanted:
                group.count_answer(old[3])
        else:
            group.expire_first(key, old)
            old = None
    revision = ~len(group.events)
    group.events.append(PutEvent(key, operation.value, operation.content_type, ends))
    group.stage(key, old, (revision, revision, ends, size))
    return group.done(revision, existed, wanted, ends)


def delete(group: Group, operation: Delete) -> Done:
    """Delete a key. An absent one logs nothing."""
    key = operation.key
    _check_key(group, key)
    old = group.entry(key)
    if not is_live(old, group.now):
        return Done(0, False)
    if operation.condition is not None:
        _check_condition(group, operation.condition, old)
    if operation.want_previous:
        group.count_answer(old[3] if old is not None else 0)
    revision = ~len(group.events)
    group.events.append(DeleteEvent(key, "request"))
    group.stage(key, old, None)
    return group.done(revision, True, operation.want_previous)


def touch(group: Group, operation: Touch) -> Done:
    """Change the expiry alone. An absent key logs nothing."""
    key = operation.key
    _check_key(group, key)
    ends = expiry(operation.ttl_ms, operation.expires_ms, group.now)
    old = group.entry(key)
    if old is None or not is_live(old, group.now):
        return Done(0, False)
    if operation.condition is not None:
        _check_condition(group, operation.condition, old)
    if group.room is Room.DELETES:
        _check_room(group, key, old[3], old)
    revision = ~len(group.events)
    group.events.append(TouchEvent(key, ends))
    group.stage(key, old, (revision, old[1], ends, old[3]))
    return group.done(revision, True, False, ends)


def incr(group: Group, operation: Incr) -> Value:
    """Add to a number. A new key begins with 0, as text: a browser shows it, and nothing else can be meant."""
    key = operation.key
    _check_key(group, key)
    if not value_edits.MIN_INTEGER <= operation.by <= value_edits.MAX_INTEGER:
        raise BadRequest("the increment does not fit a signed integer of 64 bits")
    ends = expiry(operation.ttl_ms, 0, group.now)
    old = group.entry(key)
    if operation.condition is not None:
        _check_condition(group, operation.condition, old)
    if old is None or not is_live(old, group.now):
        return _rewrite(group, key, old, value_edits.add(b"0", operation.by), "text/plain", ends)
    if old[3] > value_edits.INTEGER_BYTES:
        raise NotAnInteger(f"the value has {old[3]} bytes")
    value, content_type = group.value(key, old)
    return _rewrite(group, key, old, value_edits.add(value, operation.by), content_type, old[2])


def patch(group: Group, operation: Patch) -> Value:
    """Merge JSON into a value. That of a new key is JSON of this server's making, so it gets JSON's type; an old
    one keeps its type, which may say more (`application/geo+json`)."""
    key = operation.key
    _check_key(group, key)
    old = group.entry(key)
    if operation.condition is not None:
        _check_condition(group, operation.condition, old)
    if old is None or not is_live(old, group.now):
        return _rewrite(group, key, old, value_edits.merge_patch(None, operation.patch), "application/json", 0)
    group.count_work(old[3])
    value, content_type = group.value(key, old)
    return _rewrite(group, key, old, value_edits.merge_patch(value, operation.patch), content_type, old[2])


def get(group: Group, operation: Get) -> Value:
    """What the key holds, with what the group has decided so far."""
    key = operation.key
    _check_key(group, key)
    entry = group.entry(key)
    if entry is None or not is_live(entry, group.now):
        return Value(0, False)
    answered = group.answered.get(operation.batch, 0) + entry[3]
    group.answered[operation.batch] = answered  # too much stays too much: answers end there, they have no holes
    if answered > ANSWER_BYTES:
        raise AnswerTooLarge
    group.count_answer(entry[3])
    if group.keyspace.evictor is not None:
        group.keyspace.evictor.use(key, group.now.steady_ms)
    value, content_type = group.value(key, entry)
    reply = Value(entry[0], True, value, content_type, unix_ms(entry[2], group.now))
    if entry[0] < 0:
        group.numbered.append(reply)
    return reply


def atomic_batch(group: Group, batch: AtomicBatch) -> Results:
    """Do all operations, or none of them if one fails.

    A get or delete of an absent key is no failure, a touch is one, and so is the delete of one that must exist.
    What the store refuses for its own sake (no space, overload) is what the whole batch is refused with.
    """
    operations = batch.operations
    if len(operations) > BATCH_OPS:
        raise BatchTooLarge(f"the batch has {len(operations)} operations")
    if len({slot_of(operation.key) for operation in operations}) > 1:
        raise CrossSlot
    begin, begin_bytes = len(group.events), group.weigh()
    undo = group.undo(operations)
    replies: list[OfOne] = []
    patched = 0
    for operation in operations:
        work = group.work
        reply = _of_batch(group, operation, begin)
        if isinstance(reply, Failed):
            undo()
            if group.starved:
                group.make_room_for(operations)
            if (error := reply.error()).status >= 500:  # the store's trouble, and not that of this operation
                raise error
            return _nothing_done(group, operations, len(replies), reply)
        replies.append(reply)
        if group.weigh() - begin_bytes > RECORD_BYTES:
            undo()
            raise BatchTooLarge
        if type(operation) is Patch:
            patched += group.work - work
            if patched > PATCH_WORK_BYTES:
                undo()
                raise BatchTooLarge(f"its patches read and write more than {PATCH_WORK_BYTES} bytes")
    if len(group.events) - begin > 1:
        group.atomic.append((begin, len(group.events)))
    return Results(replies)


def mark_prefix(group: Group, operation: MarkPrefix) -> Done:
    """Log that the deletes of a prefix follow; the revision is their cut."""
    check_utf8(operation.prefix, "prefix")
    revision = ~len(group.events)
    group.events.append(PrefixMarked(operation.prefix))
    return group.done(revision, False, False)


def delete_prefix(group: Group, operation: DeletePrefix, keys: Sequence[bytes], next: bytes | None) -> Deleted:
    """Delete those of `keys`, candidates in key order, that exist and whose value is not newer than the cut.

    Deleted keys, and `next` as it came, make the reply.
    """
    cut = operation.cut
    deleted = []
    for key in keys:
        entry = group.entry(key)
        if entry is not None and 0 < entry[1] <= cut and is_live(entry, group.now):
            group.events.append(DeleteEvent(key, "prefix", cut if operation.marked else 0))
            group.stage(key, entry, None)
            deleted.append(key)
    group.prefix_deleted += len(deleted)
    return Deleted(deleted, next)


def _of_batch(group: Group, operation: OfOneKey, begin: int) -> OfOne:
    """Decide an operation of an atomic batch, which began at event `begin`; a `Failed` says that the batch fails."""
    group.batch_at = begin
    try:
        reply: OfOne = _RULES[type(operation)](group, operation)
    except KVError as error:
        return Failed.of(error)
    finally:
        group.batch_at = None
    must_exist = isinstance(operation, Touch) or (
        isinstance(operation, Delete) and operation.condition and operation.condition.if_match is not None
    )
    return reply if reply.revision or not must_exist else Failed.of(NotFound("the key does not exist"))


def _nothing_done(group: Group, operations: Sequence[OfOneKey], index: int, failed: Failed) -> Results:
    """The results of a batch that was undone because of `failed`, the operation at `index`."""
    group.refused += 1
    if isinstance(failed.error(), PreconditionFailed):  # what is there now, and not what the batch had put there
        failed.revision = group.live_revision(group.entry(operations[index].key))
        if failed.revision < 0:
            group.numbered.append(failed)
    replies: list[OfOne] = [_NOT_DONE] * len(operations)
    replies[index] = failed
    return Results(replies, index)


def _rewrite(group: Group, key: bytes, old: Entry | None, value: bytes, content_type: str, ends: int) -> Value:
    """Put a value that was made here, and answer it."""
    size = len(value)
    if size > group.keyspace.max_value:
        raise ValueTooLarge(f"the result has {size} bytes, at most {group.keyspace.max_value} are allowed")
    if group.weigh() + size > group.spare and _grows(size, old):
        raise InsufficientStorage(_MAP_FULL)
    if group.keyspace.max_memory:  # the sizes of results were not foreseen: from now on all are looked at
        group.guarded = True
    if group.guarded:
        _check_room(group, key, size, old)
    group.count_answer(size)
    existed = is_live(old, group.now)
    if old is not None and not existed:
        group.expire_first(key, old)
        old = None
    revision = ~len(group.events)
    group.events.append(PutEvent(key, value, content_type, ends))
    group.stage(key, old, (revision, revision, ends, size))
    group.weigh()
    reply = Value(revision, existed, value, content_type, unix_ms(ends, group.now))
    group.numbered.append(reply)
    return reply


def _check_condition(group: Group, condition: Condition, entry: Entry | None) -> None:
    """Raise `PreconditionFailed` unless `condition` holds for a key with `entry`."""
    revision = group.live_revision(entry)
    if condition.if_match is not None and not _is_among(revision, condition.if_match):
        raise PreconditionFailed("the key has another revision" if revision else "the key does not exist", revision)
    if condition.if_none_match is not None and _is_among(revision, condition.if_none_match):
        raise PreconditionFailed("the key exists, with a revision that it must not have", revision)


def _check_key(group: Group, key: bytes) -> None:
    if not 0 < len(key) <= MAX_KEY or not key.isascii():  # most keys need no closer look
        if not key:
            raise BadKey("the key is empty")
        check_utf8(key, "key")
    if group.slots is not None and slot_of(key) not in group.slots:
        raise ProtocolError("the key belongs to another shard")


def _check_room(group: Group, key: bytes, size: int, old: Entry | None) -> None:
    """Raise `InsufficientStorage` unless `size` bytes may be written for `key`. What is evicted for them stays so, also
    if the operation is refused for something else after this."""
    if group.room is Room.DELETES:
        raise InsufficientStorage("the log cannot grow any more")
    if not _grows(size, old):
        return
    if group.room is Room.NO_GROWTH:
        raise InsufficientStorage(_MAP_FULL)
    if group.keyspace.max_memory:
        group.make_room(key, size, old)


def _grows(size: int, old: Entry | None) -> bool:
    return old is None or size > old[3]


def _is_among(revision: int, revisions: Revisions) -> bool:
    """Whether a key of `revision` (0: it does not exist) is one of `revisions`. Nobody knows those of an open group."""
    return revision != 0 and (revisions == "*" or (revision > 0 and revision in revisions))


_RULES: Final[dict[type[Operation], Callable[[Group, Any], Any]]] = {
    Put: put,
    Delete: delete,
    Touch: touch,
    Incr: incr,
    Patch: patch,
    Get: get,
    AtomicBatch: atomic_batch,
    MarkPrefix: mark_prefix,
}
"""What decides an operation, and gives its reply."""
