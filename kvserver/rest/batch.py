"""`/v1/batch`: many operations in one request, each on its own or all or nothing."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Iterator, Sequence
from functools import partial
from typing import Any, Final

from falcon.asgi import Request, Response
from msgspec import Raw

from kvserver.access.grants import EVERYTHING, NOTHING, Grants
from kvserver.api import batches, query
from kvserver.api.batch_answers import Late, Result
from kvserver.api.batches import PORTION, Format, Sizes
from kvserver.api.scan.steps import run_at_once
from kvserver.api.times import rfc3339
from kvserver.http import compression, idempotency
from kvserver.http.idempotency import RequestMark
from kvserver.http.routes import BATCH
from kvserver.http.scope import GRANTS, QUOTA
from kvserver.http.value_headers import OCTETS
from kvserver.one_key.answers import Answer, redact
from kvserver.rest import bodies
from kvserver.rest.turns import join_in_turns, run_in_turns
from kvserver.rest.values import answer_body
from kvserver.store.client import StoreClient
from kvserver.web.context import LateAnswer, WorkerContext
from kvserver.web.limits.address_quotas import Quota
from kvserver.web.limits.load import LARGE_ANSWER
from shards.wire.errors import (
    AnswerTooLarge,
    BatchFailed,
    FailedDependency,
    Forbidden,
    IdempotencyMismatch,
    KVError,
    NotFound,
    PatchesTooLarge,
)
from shards.wire.json_text import strip_byte_order_mark
from shards.wire.protocol import (
    ANSWER_BYTES,
    MESSAGE_OPS,
    PATCHED_BYTES,
    AtomicBatch,
    Delete,
    Done,
    Failed,
    Get,
    Incr,
    OfOne,
    OfOneKey,
    Once,
    Patch,
    Put,
    Replayed,
    Reply,
    Results,
    Touch,
    Value,
)

JSON: Final = "application/json"
MESSAGE_PACK: Final = ("application/vnd.msgpack", "application/msgpack")
_FORMATS: Final = {JSON: batches.JSON} | dict.fromkeys(MESSAGE_PACK, batches.MESSAGE_PACK)
_TAKEN: Final = frozenset((Get, Put, Delete, Touch, Incr))
"""Operations of the hot path. The answers of all but gets are small."""
_SMALL_GETS: Final = 64 << 10
"""Bytes of values up to which gets are answered by the hot path."""
_SMALL: Final = 128 << 10
"""Bytes of values up to which an answer is made in one go."""
_RESULT_BYTES: Final = 160
"""Bytes of a result without a value, at most."""
_PART: Final = 256 << 10
"""About how many bytes of a large answer are given to its client at a time."""


class SmallBatchRoad:
    """Executes small batches for the hot path: gets, puts, deletes, touches and increments, each on its own.

    Everything else is left to `BatchResource`.
    """

    def __init__(self, store: StoreClient, context: WorkerContext) -> None:
        self._store, self._context = store, context

    def take(self, content_type: str, body: bytes, grants: Grants, quota: Quota | None) -> Answer | LateAnswer | None:
        """Return the answer, or what gets it; None, with nothing done, if the batch has to take the ordinary path."""
        format = _FORMATS.get(content_type)
        read = None if format is None else run_at_once(format.read_whole(body, 0, MESSAGE_OPS))
        if format is None or read is None or read[1] or not read[0]:
            return None
        operations, kinds = read[0], set(map(type, read[0]))
        answer = BatchAnswer(format, grants, self._context, quota, False)
        if not answer.asks_all and any(map(answer.find_refusal, operations)):
            return None
        gets = [op for op in operations if type(op) is Get] if Get in kinds else []
        may_be_large = gets or len(operations) * _RESULT_BYTES >= LARGE_ANSWER
        if not kinds <= _TAKEN or (may_be_large and self._context.load.answers_full(quota)):
            return None
        return self._execute(operations, gets, answer, content_type)

    def _execute(
        self, operations: list[OfOneKey], gets: Sequence[OfOneKey], answer: BatchAnswer, content_type: str
    ) -> Answer | LateAnswer | None:
        """Answer `gets` from the maps, and have shards do the other `operations`.

        None, with nothing done, if the values are not small, or the shards alone know some: those of changed keys.
        """
        changes = [op for op in operations if type(op) is not Get] if gets else operations
        if gets and changes and not {op.key for op in gets}.isdisjoint([op.key for op in changes]):
            return None
        found = self._store.look_up(gets, _SMALL_GETS) if gets else []
        if found is None:
            return None

        def make_answer(done: list[Reply]) -> Answer:
            of_gets, of_changes = iter(found), iter(done)
            replies = [next(of_gets if type(op) is Get else of_changes) for op in operations] if gets else done
            answer.add_all(operations, replies)
            return answer.give_whole(content_type)

        if not changes:
            return make_answer([])
        return lambda give: self._store.execute_changes(changes, lambda done: give(partial(make_answer, done)))


class BatchResource:
    """`/v1/batch`"""

    def __init__(self, store: StoreClient, context: WorkerContext) -> None:
        self._store, self._context = store, context

    async def on_post(self, req: Request, resp: Response) -> None:
        """200 with a result for each operation; 409 if an atomic batch failed; 400 if any operation is malformed."""
        query.parse(req.scope["query_string"], query.NOTHING)
        content_type, format = _format(req)
        given = idempotency.read_key(req.scope["headers"])
        body = await req.stream.read()
        operations, atomic = await _read_operations(
            format, strip_byte_order_mark(body) if format is batches.JSON else body, self._context.max_value
        )
        kinds = set(map(type, operations))
        if not kinds.isdisjoint((Get, Patch)) or len(operations) * _RESULT_BYTES >= LARGE_ANSWER:
            self._context.load.check_answer_budget(req.scope[QUOTA])
        answer = BatchAnswer(format, req.scope[GRANTS], self._context, req.scope[QUOTA], kinds == {Get})
        mark = await bodies.mark_request(req, given, BATCH.encode(), content_type, body)
        try:
            if atomic and operations:
                await self._do_atomic(operations, answer, mark)
            else:
                await self._do_each(operations, answer, mark)
            if answer.replayed:
                resp.set_header(idempotency.REPLAYED, "true")
            resp.content_type = content_type
            if answer.is_large:
                await _answer_large(req, resp, answer, content_type)
            else:
                await answer_body(req, resp, answer.encode_results(), content_type)
        finally:
            if resp.stream is None:
                answer.release_bytes()

    async def _do_each(self, operations: list[OfOneKey], answer: BatchAnswer, mark: RequestMark | None) -> None:
        """Execute in portions, so that memory holds the values of one portion and the answer at most."""
        unresponsive: set[int] = set()
        for start in range(0, len(operations), MESSAGE_OPS):
            portion = operations[start : start + MESSAGE_OPS]
            sent: Sequence[OfOneKey | Once] = portion
            if mark is not None:
                sent = _mark_writes(portion, mark, start)
                if start == 0:
                    self._refuse_used_key(sent)
            answer.recheck_grants()
            if answer.asks_all:
                replies = await self._store.execute(sent, unresponsive, answer.charge_bytes)
            else:
                refused = [answer.find_refusal(op) for op in portion]
                asked = [op for op, refusal in zip(sent, refused, strict=True) if refusal is None]
                answers = iter(await self._store.execute(asked, unresponsive, answer.charge_bytes))
                replies = [next(answers) if refusal is None else refusal for refusal in refused]
            answer.add_all(portion, replies)
            answer.charge_values()

    def _refuse_used_key(self, marked: Sequence[OfOneKey | Once]) -> None:
        """Raise `IdempotencyMismatch` if another request has used the Idempotency-Key of these operations."""
        if self._store.maps.is_used_by_another_request(op for op in marked if isinstance(op, Once)):
            raise IdempotencyMismatch

    async def _do_atomic(self, operations: list[OfOneKey], answer: BatchAnswer, mark: RequestMark | None) -> None:
        batches.check_one_slot(operations)
        done: Reply | None = _refuse_atomic(operations, answer)
        if done is None and mark is not None:
            self._refuse_used_key(_mark_writes(operations, mark, 0))
            done = await self._store.request_once(mark.mark_operation(AtomicBatch(operations)))
        withheld = False
        if isinstance(done, Replayed):
            answer.replayed, withheld, done = True, done.withheld, done.reply
        if done is None:
            done = await self._store.execute_atomic(operations)
        assert isinstance(done, Results)
        answer.add_all(operations, done.replies, withheld)
        if done.failed is not None:
            failure = answer.results[done.failed]
            error = BatchFailed(f"ops[{done.failed}]: {failure.get('detail', '') if isinstance(failure, dict) else ''}")
            error.members = {"failed": done.failed, "results": answer.results}
            raise error
        answer.charge_values()


async def _answer_large(req: Request, resp: Response, answer: BatchAnswer, content_type: str) -> None:
    """Answer with a large `answer`: whole if it may be compressed, else as a stream.

    Memory holds no more of a stream than its client takes at a time, besides the values.
    """
    parts = answer.encode_parts()
    first = bytearray()
    async for part in parts:
        first += part
        if len(first) > compression.LARGEST:
            resp.stream = _prepend(bytes(first), parts)
            return
    await answer_body(req, resp, bytes(first), content_type)


async def _prepend(first: bytes, parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield first
    async for part in parts:
        yield part


def _mark_writes(portion: list[OfOneKey], mark: RequestMark, start: int) -> list[OfOneKey | Once]:
    """Return the operations of `portion`, the first of which is at `start`, the writes to be done once."""
    return [op if isinstance(op, Get) else mark.mark_operation(op, at) for at, op in enumerate(portion, start)]


def _refuse_atomic(operations: list[OfOneKey], answer: BatchAnswer) -> Results | None:
    """Return the results of an atomic batch with a refused operation; None if none is refused."""
    for index, operation in enumerate(operations):
        refusal = answer.find_refusal(operation)
        if refusal is not None:
            replies: list[OfOne] = [_NOT_DONE] * len(operations)
            replies[index] = refusal
            return Results(replies, index)
    return None


_NOT_DONE: Final = Failed.of(FailedDependency())
_PATCHED: Final = Failed.of(PatchesTooLarge())
_TOO_MUCH: Final = Failed.of(AnswerTooLarge())


def _format(req: Request) -> tuple[str, Format]:
    """Return the media type of the answer, and the format of both. Raises `UnsupportedMediaType`."""
    bodies.refuse_coded(req)
    name = bodies.own_type(req, JSON, *MESSAGE_PACK)
    return (name, batches.MESSAGE_PACK) if name in MESSAGE_PACK else (JSON, batches.JSON)


async def _read_operations(format: Format, body: bytes, most: int) -> tuple[list[OfOneKey], bool]:
    """Read the operations in `body`, and whether they are atomic. `most`: bytes of a value. Raises `BadRequest`."""
    number = secrets.randbits(64)
    whole = await run_in_turns(format.read_whole(body, number))
    if whole is not None:
        return whole
    envelope = await run_in_turns(format.read_envelope(body))
    operations: list[OfOneKey] = []
    for portion in _divide_operations(envelope.ops, format.sizes):
        if len(memoryview(portion[0])) > format.sizes.single:
            operations.append(await run_in_turns(format.read_large(len(operations), portion[0], number, most)))
        else:
            operations += format.read_operations(len(operations), portion, number)
        await asyncio.sleep(0)
    return operations, envelope.is_atomic


def _divide_operations(raws: list[Raw], sizes: Sizes) -> Iterator[list[Raw]]:
    """Divide operations into portions that are read together; a large one is a portion of its own."""
    portion: list[Raw] = []
    size = 0
    for raw in raws:
        length = len(memoryview(raw))
        if portion and (len(portion) >= PORTION or size + length > sizes.portion or length > sizes.single):
            yield portion
            portion, size = [], 0
        portion.append(raw)
        size += length
        if length > sizes.single:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


class BatchAnswer:
    """The answer to a batch while it is made: its results, in order, and the limits on its size.

    Attributes:
        quota: of the address that the answer is charged to.
        replayed: whether any result is of an operation that was done before.
        full: no further value is included: gets are `answer_too_large` from now on.
    """

    def __init__(
        self, format: Format, grants: Grants, context: WorkerContext, quota: Quota | None, reads_only: bool
    ) -> None:
        self.quota = quota
        self._format, self._grants, self._left = format, grants, ANSWER_BYTES
        self._context, self._reads_only = context, reads_only
        self._unrestricted = grants is EVERYTHING
        self._held = self._patched = self._shown = 0
        self.results: list[Result] = []
        self.replayed = self.full = False

    def charge_bytes(self, size: int) -> None:
        """Charge bytes of the answer to its address. Raises `Overloaded` if too much waits for clients, and the batch
        changes nothing."""
        self._held += size
        self._context.load.owe_bytes(self.quota, size)
        if self._reads_only:
            self._context.load.check_answer_budget(self.quota, self._held)

    def charge_values(self) -> None:
        """Charge the bytes of all values so far that are not charged yet. Raises what `charge_bytes` does."""
        self.charge_bytes(self._shown - self._held)

    def release_bytes(self) -> None:
        """End the charge: the connection charges for the answer from now on, or its client has taken it, or is gone."""
        self._context.load.owe_bytes(self.quota, -self._held)
        self._held = 0

    def recheck_grants(self) -> None:
        """Judge operations from now on by the tokens in effect now."""
        if not self._unrestricted:
            self._grants = self._context.tokens.current_grants(self._grants) or NOTHING

    @property
    def asks_all(self) -> bool:
        """Whether all operations go to the store: `find_refusal` would refuse none."""
        return self._unrestricted and not self.full and self._patched < PATCHED_BYTES

    def find_refusal(self, operation: OfOneKey) -> Failed | None:
        """Return the refusal of an operation; None if it goes to the store."""
        is_get = type(operation) is Get
        if not self._unrestricted:
            try:
                self._grants.require("read" if is_get else "write", operation.key)
            except Forbidden as error:
                return Failed.of(error)
        if type(operation) is Patch and self._patched >= PATCHED_BYTES:
            return _PATCHED
        return _TOO_MUCH if is_get and self.full else None

    def add_all(self, operations: Sequence[OfOneKey], replies: Sequence[Reply], withheld: bool = False) -> None:
        """Add the results of the next operations. `withheld`: their values are not remembered."""
        results = self.results
        for operation, reply in zip(operations, replies, strict=True):
            if type(reply) is Done and reply.existed:  # as most are
                results.append({"status": 204, "revision": reply.revision})
            else:
                self._add(operation, reply, withheld)

    def _add(self, operation: OfOneKey, reply: Reply, withheld: bool) -> None:
        """Add the result of the next operation."""
        if isinstance(reply, Replayed):
            self.replayed, withheld, reply = True, reply.withheld, reply.reply
        if isinstance(reply, Done):
            self.results.append(_result_of_done(operation, reply))
            return
        if isinstance(reply, Value) and isinstance(operation, Get):
            self.full = self.full or len(reply.value) > self._left
            if self.full:
                reply = _TOO_MUCH
        if isinstance(reply, Failed):
            self.full = self.full or (isinstance(operation, Get) and reply.code == AnswerTooLarge.code)
            error = redact(self._grants, operation.key, reply.error())
            self.results.append(_result_of_error(error, self._grants.may("read", operation.key)))
            return
        assert isinstance(reply, Value)
        if type(operation) is Patch:
            self._patched += len(reply.value)
        self.results.append(self._result_of_value(operation, reply, withheld))

    def _result_of_value(self, operation: OfOneKey, reply: Value, withheld: bool) -> Result:
        if not reply.existed and isinstance(operation, Get):
            return _result_of_error(NotFound())
        if not (self._unrestricted or self._grants.may("read", operation.key)):
            return {"status": 204, "revision": reply.revision}
        if withheld:
            return {"status": 200 if reply.existed else 201, "revision": reply.revision}
        result: dict[str, Any] = {
            "status": 200 if reply.existed else 201,
            "revision": reply.revision,
            "content_type": reply.content_type or OCTETS,
            "expires": rfc3339(reply.expires_ms) if reply.expires_ms else None,
        }
        value = reply.value
        if len(value) > self._left:  # the result of a patch, which is done: it can only be left out
            return result
        self._left -= len(value)
        self._shown += len(value)
        if self.is_large:
            return Late(result, value)
        field, result[field] = self._format.answer.show(value)
        return result

    @property
    def is_large(self) -> bool:
        """Whether the values are too many bytes for an answer that is made in one go."""
        return self._shown > _SMALL

    def encode_results(self) -> bytes:
        """Encode the whole answer, which must not be large."""
        return self._format.encode({"results": self.results})

    def give_whole(self, content_type: str) -> Answer:
        """Return the whole answer, which must not be large."""
        return Answer(200, [("content-type", content_type)], self.encode_results(), content_type)

    async def encode_parts(self) -> AsyncGenerator[bytes, None]:
        """Yield the whole answer, in parts that are made one after the other. Other tasks run between and in the
        meantime.

        Ends the charge when all parts were taken, or when the client has left.
        """
        try:
            async for part in join_in_turns(self._format.answer.make_pieces(self.results), _PART):
                yield part
        finally:
            self.release_bytes()


def _result_of_done(operation: OfOneKey, reply: Done) -> dict[str, Any]:
    if reply.existed:
        return {"status": 204, "revision": reply.revision}
    return {"status": 201, "revision": reply.revision} if isinstance(operation, Put) else _result_of_error(NotFound())


def _result_of_error(error: KVError, may_read: bool = True) -> dict[str, Any]:
    """`may_read`: whether the client may know the key's revision; 0 would mean that the key is absent."""
    result = {"status": error.status, "code": error.code, "detail": error.detail or error.title}
    return {**result, "revision": error.revision} if error.status == 412 and may_read else result
