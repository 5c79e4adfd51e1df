"""Batches: operations as JSON, results as `Result`. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from binascii import crc_hqx
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kvserver.client.core.answers import document_of, member, moment_of
from kvserver.client.core.calls import Answer, Call, Kind
from kvserver.client.core.values import JSON, body_of, expires_text, json_bytes, ttl_text, whole
from kvserver.client.errors import BadKey, BadRequest, BatchFailed, CrossSlot, ForeignAnswer, KVError, Result, error_of
from kvserver.client.model import UNSET, Entry, Expires, Ttl, Unset, Value

SLOTS: Final = 16384
BATCH_OPERATIONS: Final = 1000
"""Most operations of one batch of `get_many` and `put_many`."""
BATCH_BYTES: Final = 1 << 20
"""Values in one batch of `put_many`, unless one alone is larger."""


@dataclass(frozen=True)
class GetOp:
    """Read a key. `if_revision`: a check without a write, which fails an atomic batch; 0: the key must be absent."""

    key: str
    if_revision: int | None = None

    def document(self) -> dict[str, Any]:
        """Return what the API calls it, without the key."""
        return {"op": "get", "if_revision": _revision(self.if_revision)}


@dataclass(frozen=True)
class PutOp:
    """Store a value, as `Client.put`."""

    key: str
    value: Value | Unset = UNSET
    json: object = UNSET
    content_type: str | None = None
    ttl: Ttl | None = None
    expires: Expires | None = None
    if_revision: int | None = None

    def document(self) -> dict[str, Any]:
        """Return what the API calls it, without the key."""
        body, content_type = body_of(self.value, self.json, self.content_type)
        return {
            "op": "put",
            **_value_members(body),
            "content_type": content_type,
            "ttl": _number(self.ttl),
            "expires": expires_text(self.expires),
            "if_revision": _revision(self.if_revision),
        }


@dataclass(frozen=True)
class PatchOp:
    """Merge a JSON merge patch into a value, as `Client.patch`."""

    key: str
    merge: object
    if_revision: int | None = None

    def document(self) -> dict[str, Any]:
        """Return what the API calls it, without the key."""
        return {"op": "patch", "patch": self.merge, "if_revision": _revision(self.if_revision)}


@dataclass(frozen=True)
class IncrOp:
    """Add to a whole number, as `Client.incr`."""

    key: str
    by: int = 1
    ttl_if_new: Ttl | None = None
    if_revision: int | None = None

    def document(self) -> dict[str, Any]:
        """Return what the API calls it, without the key."""
        ttl = _number(self.ttl_if_new)
        return {"op": "incr", "by": self.by, "ttl_if_new": ttl, "if_revision": _revision(self.if_revision)}


@dataclass(frozen=True)
class TouchOp:
    """Change the expiry of a key alone, as `Client.touch`."""

    key: str
    ttl: Ttl | None = None
    expires: Expires | None = None
    persist: bool = False
    if_revision: int | None = None

    def document(self) -> dict[str, Any]:
        """Return what the API calls it, without the key."""
        return {
            "op": "touch",
            "ttl": _number(self.ttl),
            "expires": expires_text(self.expires),
            "persist": self.persist or None,
            "if_revision": _revision(self.if_revision),
        }


@dataclass(frozen=True)
class DeleteOp:
    """Delete a key, as `Client.delete`."""

    key: str
    if_revision: int | None = None

    def document(self) -> dict[str, Any]:
        """Return what the API calls it, without the key."""
        return {"op": "delete", "if_revision": _revision(self.if_revision)}


Op = GetOp | PutOp | PatchOp | IncrOp | TouchOp | DeleteOp


def batch(prefix: str, ops: Sequence[Op], atomic: bool = False) -> Call[list[Result]]:
    """Return the call that carries out operations. Raises `CrossSlot` for an atomic batch of keys of two slots."""
    if atomic:
        _check_slots(prefix, ops)
    documents = [
        {"op": (document := op.document()).pop("op"), "key": prefix + op.key}
        | {name: value for name, value in document.items() if value is not None}
        for op in ops
    ]

    def read(answer: Answer) -> list[Result]:
        return _results_of(ops, member(document_of(answer), "results", list))

    def refuse(error: KVError, answer: Answer) -> KVError:
        if isinstance(error, BatchFailed):
            failed, results = error.members.get("failed"), error.members.get("results")
            error.failed = failed if isinstance(failed, int) else -1
            try:
                error.results = _results_of(ops, results)
            except ForeignAnswer:
                error.results = ()
        return error

    reads = all(isinstance(op, GetOp) for op in ops)
    try:
        body = json_bytes({"atomic": atomic, "ops": documents})
    except UnicodeEncodeError as error:
        raise BadKey(f"keys are UTF-8: {error.reason}") from None
    kind = Kind.READ if reads else Kind.WRITE
    return Call("POST", "/v1/batch", read, kind, {"Content-Type": JSON}, body, refuse=refuse)


def slot_of(key: str) -> int:
    """Return the slot of `key`: of the {tag} in it, if there is one, else of the whole key."""
    text = key.encode()
    start = text.find(b"{")
    end = text.find(b"}", start + 1)
    if start >= 0 and end > start + 1:
        text = text[start + 1 : end]
    return crc_hqx(text, 0) % SLOTS


def divide(pairs: Iterable[tuple[str, Value]]) -> Iterator[list[PutOp]]:
    """Divide what `put_many` stores into batches."""
    ops: list[PutOp] = []
    size = 0
    for key, value in pairs:
        length = len(value)
        if ops and (len(ops) >= BATCH_OPERATIONS or size + length > BATCH_BYTES):
            yield ops
            ops, size = [], 0
        ops.append(PutOp(key, value))
        size += length
    if ops:
        yield ops


def _check_slots(prefix: str, ops: Sequence[Op]) -> None:
    try:
        slots = {slot_of(prefix + op.key) for op in ops}
    except UnicodeEncodeError as error:
        raise BadKey(f"keys are UTF-8: {error.reason}") from None
    if len(slots) > 1:
        raise CrossSlot("nothing was sent", hint="Give the keys a common {tag} in braces: only the tag decides")


def _results_of(ops: Sequence[Op], results: Any) -> list[Result]:
    if not isinstance(results, list) or len(results) != len(ops):
        raise ForeignAnswer("an answer to a batch without the results of its operations")
    return [_result_of(op, result) for op, result in zip(ops, results, strict=True)]


def _result_of(op: Op, document: Any) -> Result:
    status = member(document, "status", int)
    revision = document.get("revision")
    if status >= 400:
        code, detail = (text if isinstance(text := document.get(n), str) else "" for n in ("code", "detail"))
        return Result(status, revision, error=error_of(status, code, detail, members=document))
    body = value_of(document)
    if body is None:
        return Result(status, revision)
    if isinstance(op, IncrOp):
        return Result(status, revision, value=int(body))
    if isinstance(op, PatchOp):
        return Result(status, revision, value=json.loads(body))
    content_type = member(document, "content_type", str)
    entry = Entry(op.key, body, member(document, "revision", int), content_type, moment_of(document.get("expires")))
    return Result(status, revision, entry)


def value_of(document: Any) -> bytes | None:
    """Return the bytes of a value in JSON, as text or in base64; None if there is none. Raises `ForeignAnswer`."""
    text, coded = document.get("value"), document.get("value_base64")
    if isinstance(text, str):
        return text.encode()
    if isinstance(coded, str):
        try:
            return base64.b64decode(coded, validate=True)
        except binascii.Error:
            raise ForeignAnswer("a value that is not base64") from None
    return None


def _value_members(body: bytes) -> dict[str, str]:
    try:
        return {"value": body.decode()}
    except UnicodeDecodeError:
        return {"value_base64": base64.b64encode(body).decode()}


def _number(ttl: Ttl | None) -> float | int | None:
    text = ttl_text(ttl)
    return None if text is None else float(text) if "." in text else int(text)


def _revision(if_revision: int | None) -> int | None:
    if if_revision is not None:
        whole(if_revision, "if_revision")
    return if_revision


def check_ops(ops: Iterable[Op]) -> list[Op]:
    """Return the operations as a list. Raises `TypeError` for what is none, `BadRequest` for none at all."""
    found = list(ops)
    for op in found:
        if not isinstance(op, (GetOp, PutOp, PatchOp, IncrOp, TouchOp, DeleteOp)):
            raise TypeError(f"an operation of a batch is a PutOp, GetOp and so on, not {type(op).__name__}")
    if not found:
        raise BadRequest("a batch has at least one operation")
    return found
