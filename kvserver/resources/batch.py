"""`/v1/batch`: many operations in one request, each for itself or all or nothing."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Iterator
from typing import Any, Final

from falcon.asgi import Request, Response
from msgspec import Raw

from kvserver import batches, query
from kvserver.access.grants import EVERYTHING, NOTHING, Grants
from kvserver.batchanswers import Late, Result
from kvserver.batches import Format, Sizes
from kvserver.resources import bodies
from kvserver.resources.memorykv import OCTETS
from kvserver.resources.values import answer, told_to
from kvserver.router import Router
from kvserver.times import rfc3339
from kvserver.turns import in_turns, joined_in_turns
from kvserver.web import coding
from kvserver.web.exchange import GRANTS, SHARE
from kvserver.web.shares import Share
from kvserver.web.traffic import Traffic
from shards.edits import unmarked
from shards.errors import (
    AnswerTooLarge,
    BatchFailed,
    FailedDependency,
    Forbidden,
    KVError,
    NotFound,
    PatchesTooLarge,
)
from shards.protocol import (
    ANSWER_BYTES,
    MESSAGE_OPS,
    PATCHED_BYTES,
    Done,
    Failed,
    Get,
    OfOne,
    OfOneKey,
    Patch,
    Put,
    Reply,
    Results,
    Value,
)

JSON: Final = "application/json"
MESSAGE_PACK: Final = ("application/vnd.msgpack", "application/msgpack")
_PORTION: Final = 500
"""Operations that are read before other requests get their turn."""
_SMALL: Final = 128 << 10
"""Bytes of values up to which an answer is made in one go."""
_PART: Final = 256 << 10
"""About how many bytes of a large answer are given to its client at a time."""


class Batch:
    """`/v1/batch`"""

    def __init__(self, router: Router, traffic: Traffic) -> None:
        self._router, self._traffic = router, traffic

    async def on_post(self, req: Request, resp: Response) -> None:
        """200 with a result for each operation; 409 if an atomic batch failed; 400 if any operation is malformed."""
        query.parse(req.scope["query_string"], query.NOTHING)
        content_type, format = _format(req)
        body = await req.stream.read()
        operations, atomic = await _read(
            format, unmarked(body) if format is batches.JSON else body, self._traffic.max_value
        )
        kinds = set(map(type, operations))
        if not kinds.isdisjoint((Get, Patch)):
            self._traffic.check_room(req.scope[SHARE])
        told = Told(format, req.scope[GRANTS], self._traffic, req.scope[SHARE], kinds == {Get})
        try:
            if atomic and operations:
                await self._do_atomic(operations, told)
            else:
                await self._do_each(operations, told)
            resp.content_type = content_type
            if not told.is_large:
                await answer(req, resp, told.encode(), content_type)
            else:
                await _give_large(req, resp, told, content_type)
        finally:
            if resp.stream is None:
                told.release()

    async def _do_each(self, operations: list[OfOneKey], told: Told) -> None:
        """In portions, so that no more values are held than one of them and the answer."""
        silent: set[int] = set()
        for start in range(0, len(operations), MESSAGE_OPS):
            portion = operations[start : start + MESSAGE_OPS]
            told.follow_tokens()
            if told.asks_all:
                replies = await self._router.each(portion, silent, told.hold)
            else:
                refused = [told.refuses(op) for op in portion]
                asked = [op for op, refusal in zip(portion, refused, strict=True) if refusal is None]
                answers = iter(await self._router.each(asked, silent, told.hold))
                replies = [next(answers) if refusal is None else refusal for refusal in refused]
            for op, reply in zip(portion, replies, strict=True):
                told.add(op, reply)
            told.count_values()

    async def _do_atomic(self, operations: list[OfOneKey], told: Told) -> None:
        batches.check_one_slot(operations)
        done = _refused(operations, told) or await self._router.atomic(operations)
        for operation, reply in zip(operations, done.replies, strict=True):
            told.add(operation, reply)
        if done.failed is not None:
            failure = told.results[done.failed]
            error = BatchFailed(f"ops[{done.failed}]: {failure.get('detail', '') if isinstance(failure, dict) else ''}")
            error.members = {"failed": done.failed, "results": told.results}
            raise error
        told.count_values()


async def _give_large(req: Request, resp: Response, told: Told, content_type: str) -> None:
    """Make what `told` has the answer: whole if it is as small as what is coded, else as a stream, so that no more of
    it is in memory than its client takes at a time."""
    parts = told.parts()
    first = bytearray()
    async for part in parts:
        first += part
        if len(first) > coding.LARGEST:
            resp.stream = _following(bytes(first), parts)
            return
    await answer(req, resp, bytes(first), content_type)


async def _following(first: bytes, parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield first
    async for part in parts:
        yield part


def _refused(operations: list[OfOneKey], told: Told) -> Results | None:
    """What becomes of an atomic batch with an operation that is refused; None if none is."""
    for index, operation in enumerate(operations):
        refusal = told.refuses(operation)
        if refusal is not None:
            replies: list[OfOne] = [_NOT_DONE] * len(operations)
            replies[index] = refusal
            return Results(replies, index)
    return None


_NOT_DONE: Final = Failed.of(FailedDependency())
_PATCHED: Final = Failed.of(PatchesTooLarge())
_TOO_MUCH: Final = Failed.of(AnswerTooLarge())


def _format(req: Request) -> tuple[str, Format]:
    """The type of the answer, and how request and answer are written. Raises `UnsupportedMediaType`."""
    bodies.refuse_coded(req)
    name = bodies.own_type(req, JSON, *MESSAGE_PACK)
    return (name, batches.MESSAGE_PACK) if name in MESSAGE_PACK else (JSON, batches.JSON)


async def _read(format: Format, body: bytes, most: int) -> tuple[list[OfOneKey], bool]:
    """The operations in `body`, and whether they are all or nothing. Values have `most` bytes. Raises `BadRequest`."""
    number = secrets.randbits(64)
    whole = format.small(body, number) if len(body) <= format.sizes.whole else None
    if whole is not None:
        return whole
    envelope = await in_turns(format.envelope(body))
    operations: list[OfOneKey] = []
    for portion in _portions(envelope.ops, format.sizes):
        if len(memoryview(portion[0])) > format.sizes.single:
            operations.append(await in_turns(format.large(len(operations), portion[0], number, most)))
        else:
            operations += format.operations(len(operations), portion, number)
        await asyncio.sleep(0)
    return operations, envelope.is_atomic


def _portions(raws: list[Raw], sizes: Sizes) -> Iterator[list[Raw]]:
    """Operations that are read together; each of the large ones for itself."""
    portion: list[Raw] = []
    size = 0
    for raw in raws:
        length = len(memoryview(raw))
        if portion and (len(portion) >= _PORTION or size + length > sizes.portion or length > sizes.single):
            yield portion
            portion, size = [], 0
        portion.append(raw)
        size += length
        if length > sizes.single:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


class Told:
    """The results of a batch, in order, as they are told to its client.

    Attributes:
        full: no value more is told: a get is `answer_too_large` from now on.
    """

    def __init__(self, format: Format, grants: Grants, traffic: Traffic, share: Share | None, reads_only: bool) -> None:
        """`share`: of whose address the answer is counted."""
        self._share = share
        self._format, self._grants, self._left = format, grants, ANSWER_BYTES
        self._traffic, self._reads_only = traffic, reads_only
        self._unrestricted = grants is EVERYTHING
        self._held = self._patched = self._shown = 0
        self.results: list[Result] = []
        self.full = False

    def hold(self, size: int) -> None:
        """Count bytes of the answer that is being made. Raises `Overloaded` if too much waits for clients by now and
        nothing was changed."""
        self._held += size
        self._traffic.owe(self._share, size)
        if self._reads_only:
            self._traffic.check_room(self._share, self._held)

    def count_values(self) -> None:
        """Hold as many bytes as the values have that are told so far. Raises as `hold`."""
        self.hold(self._shown - self._held)

    def release(self) -> None:
        """The answer is made, and counted by whoever sends it; or it was given to its client, or to nobody."""
        self._traffic.owe(self._share, -self._held)
        self._held = 0

    def follow_tokens(self) -> None:
        """What is asked from now on is judged by the tokens in effect now."""
        if not self._unrestricted:
            self._grants = self._traffic.tokens.current(self._grants) or NOTHING

    @property
    def asks_all(self) -> bool:
        """Whether nothing at all is refused without a shard's being asked."""
        return self._unrestricted and not self.full and self._patched < PATCHED_BYTES

    def refuses(self, operation: OfOneKey) -> Failed | None:
        """What becomes of the operation without a shard's being asked; None: ask."""
        is_get = type(operation) is Get
        if not self._unrestricted:
            try:
                self._grants.require("read" if is_get else "write", operation.key)
            except Forbidden as error:
                return Failed.of(error)
        if type(operation) is Patch and self._patched >= PATCHED_BYTES:
            return _PATCHED
        return _TOO_MUCH if is_get and self.full else None

    def add(self, operation: OfOneKey, reply: Reply) -> None:
        """The result of the next operation."""
        if isinstance(reply, Done):
            self.results.append(_done(operation, reply))
            return
        if isinstance(reply, Value) and isinstance(operation, Get):
            self.full = self.full or len(reply.value) > self._left
            if self.full:
                reply = _TOO_MUCH
        if isinstance(reply, Failed):
            self.full = self.full or (isinstance(operation, Get) and reply.code == AnswerTooLarge.code)
            error = told_to(self._grants, operation.key, reply.error())
            self.results.append(_error(error, self._grants.may("read", operation.key)))
            return
        assert isinstance(reply, Value)
        if type(operation) is Patch:
            self._patched += len(reply.value)
        self.results.append(self._value(operation, reply))

    def _value(self, operation: OfOneKey, reply: Value) -> Result:
        if not reply.existed and isinstance(operation, Get):
            return _error(NotFound())
        if not (self._unrestricted or self._grants.may("read", operation.key)):
            return {"status": 204, "revision": reply.revision}
        result: dict[str, Any] = {
            "status": 200 if reply.existed else 201,
            "revision": reply.revision,
            "content_type": reply.content_type or OCTETS,
            "expires": rfc3339(reply.expires_ms) if reply.expires_ms else None,
        }
        value = reply.value
        if len(value) > self._left:  # what a patch made: it is done, so it can only go unshown
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

    def encode(self) -> bytes:
        """The whole answer, which must not be large."""
        return self._format.encode({"results": self.results})

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """The whole answer, in parts that are made one after the other; releases what is held when all were taken, or
        when nobody wants more of them."""
        try:
            async for part in joined_in_turns(self._format.answer.pieces(self.results), _PART):
                yield part
        finally:
            self.release()


def _done(operation: OfOneKey, reply: Done) -> dict[str, Any]:
    if reply.existed:
        return {"status": 204, "revision": reply.revision}
    return {"status": 201, "revision": reply.revision} if isinstance(operation, Put) else _error(NotFound())


def _error(error: KVError, may_read: bool = True) -> dict[str, Any]:
    """`may_read`: whether its client may know the revision that is there; a 0 would say that nothing is."""
    result = {"status": error.status, "code": error.code, "detail": error.detail or error.title}
    return {**result, "revision": error.revision} if error.status == 412 and may_read else result
