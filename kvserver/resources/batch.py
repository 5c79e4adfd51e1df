"""`/v1/batch`: many operations in one request, each for itself or all or nothing."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, Final

from falcon.asgi import Request, Response

from kvserver import batches, query
from kvserver.batches import Format
from kvserver.resources import bodies
from kvserver.resources.many import show_value
from kvserver.resources.memorykv import OCTETS
from kvserver.resources.values import answer
from kvserver.router import Router
from kvserver.times import rfc3339
from shards.errors import AnswerTooLarge, BatchFailed, KVError, NotFound, UnsupportedMediaType
from shards.protocol import (
    ANSWER_BYTES,
    MESSAGE_OPS,
    Delete,
    Done,
    Failed,
    Get,
    OfOneKey,
    Put,
    Reply,
    Touch,
    Value,
)

JSON: Final = "application/json"
MESSAGE_PACK: Final = ("application/vnd.msgpack", "application/msgpack")
_PORTION: Final = 500
"""Operations that are read or told before other requests get their turn."""


class Batch:
    """`/v1/batch`"""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def on_post(self, req: Request, resp: Response) -> None:
        """200 with a result for each operation; 409 if an atomic batch failed; 400 if any operation is malformed."""
        query.parse(req.scope["query_string"], query.NOTHING)
        content_type, format = _format(req)
        envelope = format.envelope(await req.stream.read())
        operations = await _read(format, envelope)
        told = Told(format)
        if envelope.atomic and operations:
            await self._do_atomic(operations, told)
        else:
            await self._do_each(operations, told)
        resp.content_type = content_type
        await answer(req, resp, told.encode(), content_type)

    async def _do_each(self, operations: list[OfOneKey], told: Told) -> None:
        """In portions, so that no more values are held than one of them and the answer."""
        for start in range(0, len(operations), MESSAGE_OPS):
            portion = operations[start : start + MESSAGE_OPS]
            without_gets = told.full
            asked = [op for op in portion if not (without_gets and isinstance(op, Get))]
            replies = iter(await self._router.each(asked))
            for op in portion:
                told.add(op, _TOO_MUCH if without_gets and isinstance(op, Get) else next(replies))

    async def _do_atomic(self, operations: list[OfOneKey], told: Told) -> None:
        batches.check_one_slot(operations)
        done = await self._router.atomic(operations)
        for operation, reply in zip(operations, done.replies, strict=True):
            told.add(operation, reply)
        if done.failed is not None:
            error = BatchFailed(f"ops[{done.failed}]: {told.results[done.failed].get('detail', '')}")
            error.members = {"failed": done.failed, "results": told.results}
            raise error


_TOO_MUCH: Final = Failed.of(AnswerTooLarge())


def _format(req: Request) -> tuple[str, Format]:
    """The type of the answer, and how request and answer are written. Raises `UnsupportedMediaType`."""
    bodies.refuse_coded(req)
    name = bodies.media_type(req)
    if name in MESSAGE_PACK:
        return name, batches.MESSAGE_PACK
    if name in ("", JSON, bodies.FORM):
        return JSON, batches.JSON
    raise UnsupportedMediaType(f"a batch is {JSON} or {MESSAGE_PACK[0]}, not {name}")


async def _read(format: Format, envelope: batches.Envelope) -> list[OfOneKey]:
    number = secrets.randbits(64)
    operations: list[OfOneKey] = []
    for index, raw in enumerate(envelope.ops):
        operations.append(format.operation(index, raw, number))
        if index % _PORTION == _PORTION - 1:
            await asyncio.sleep(0)
    return operations


class Told:
    """The results of a batch, in order, as they are told to its client.

    Attributes:
        full: no value more is told: a get is `answer_too_large` from now on.
    """

    def __init__(self, format: Format) -> None:
        self._format, self._left = format, ANSWER_BYTES
        self.results: list[dict[str, Any]] = []
        self.full = False

    def add(self, operation: OfOneKey, reply: Reply) -> None:
        """The result of the next operation."""
        if isinstance(operation, Get) and isinstance(reply, Value):
            self.full = self.full or len(reply.value) > self._left
            reply = _TOO_MUCH if self.full else reply
        if isinstance(reply, Failed):
            self.full = self.full or (isinstance(operation, Get) and reply.code == AnswerTooLarge.code)
            self.results.append(_error(reply.error()))
        elif isinstance(reply, Value):
            self.results.append(self._value(operation, reply))
        else:
            assert isinstance(reply, Done)
            self.results.append(_done(operation, reply))

    def _value(self, operation: OfOneKey, reply: Value) -> dict[str, Any]:
        if isinstance(operation, Get) and not reply.existed:
            return _error(NotFound())
        result: dict[str, Any] = {
            "status": 200 if reply.existed else 201,
            "revision": reply.revision,
            "content_type": reply.content_type or OCTETS,
            "expires": rfc3339(reply.expires_ms) if reply.expires_ms else None,
        }
        if len(reply.value) > self._left:  # what a patch made: it is done, so it can only go unshown
            return result
        self._left -= len(reply.value)
        return result | (show_value(reply.value) if self._format is batches.JSON else {"value": reply.value})

    def encode(self) -> bytes:
        """The whole answer."""
        return self._format.encode({"results": self.results})


def _done(operation: OfOneKey, reply: Done) -> dict[str, Any]:
    if isinstance(operation, Delete | Touch) and not reply.existed:
        return _error(NotFound())
    return {"status": 201 if isinstance(operation, Put) and not reply.existed else 204, "revision": reply.revision}


def _error(error: KVError) -> dict[str, Any]:
    result = {"status": error.status, "code": error.code, "detail": error.detail or error.title}
    return {**result, "revision": error.revision} if error.status == 412 else result
