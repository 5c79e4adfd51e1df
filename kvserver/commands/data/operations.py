"""Operations of a batch as the API writes them, and their results. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from kvserver.client.atomics import Atomic
from kvserver.client.core.batches import DeleteOp, GetOp, IncrOp, Op, PatchOp, PutOp, TouchOp
from kvserver.client.errors import KVError, PreconditionFailed, Result
from kvserver.commands.parts.documents import value_member
from kvserver.commands.parts.texts import moment_text

_MEMBERS: Final[Mapping[str, tuple[Callable[..., Op], Mapping[str, str]]]] = {
    "get": (GetOp, {"if_revision": "if_revision"}),
    "put": (
        PutOp,
        {
            "value": "value",
            "value_base64": "value",
            "json": "json",
            "content_type": "content_type",
            "ttl": "ttl",
            "expires": "expires",
            "if_revision": "if_revision",
        },
    ),
    "patch": (PatchOp, {"patch": "merge", "if_revision": "if_revision"}),
    "incr": (IncrOp, {"by": "by", "ttl_if_new": "ttl_if_new", "if_revision": "if_revision"}),
    "touch": (
        TouchOp,
        {"ttl": "ttl", "expires": "expires", "persist": "persist", "if_revision": "if_revision"},
    ),
    "delete": (DeleteOp, {"if_revision": "if_revision"}),
}
"""The class of each operation, and its members by the name that the class has for them."""


def parse_operations(text: bytes) -> tuple[list[Op], bool | None]:
    """Return the operations of a text, and whether it asks for an atomic batch; None if it does not say.

    The text is one JSON document, `{"ops":[…]}` or `[…]`, or a JSON object a line. Raises `ValueError`, which says
    where it is wrong.
    """
    document: Any = _whole_document(text)
    if document is None:
        return [_parse_line(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()], None
    atomic = None
    if isinstance(document, dict):
        if unknown := sorted(set(document) - {"ops", "atomic"}):
            raise ValueError(f"a batch has ops and atomic, not {unknown[0]!r}")
        document, atomic = document.get("ops"), document.get("atomic")
    if not isinstance(document, list) or not isinstance(atomic, bool | None):
        raise ValueError('a batch is {"ops":[…]}, with "atomic":true if wanted, or a list, or an operation a line')
    return [_parse(f"operation {index}", operation) for index, operation in enumerate(document)], atomic


def _whole_document(text: bytes) -> Any:
    """Return the text as one JSON document, or None if it is lines of operations."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return None if isinstance(document, dict) and "op" in document else document


def _parse_line(number: int, line: bytes) -> Op:
    try:
        operation = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {number} is not JSON: {error}") from None
    return _parse(f"line {number}", operation)


def _parse(where: str, document: object) -> Op:
    """Return an operation. Raises `ValueError`."""
    if not isinstance(document, dict):
        raise ValueError(f"{where}: an operation is a JSON object")
    found: dict[str, object] = document
    name, key = found.get("op"), found.get("key")
    if not isinstance(name, str) or name not in _MEMBERS:
        raise ValueError(f"{where}: op is one of {', '.join(_MEMBERS)}, not {name!r}")
    if not isinstance(key, str):
        raise ValueError(f"{where}: key is a text")
    make, members = _MEMBERS[name]
    given: dict[str, object] = {}
    for member, value in found.items():
        if member in ("op", "key"):
            continue
        if member not in members:
            raise ValueError(f"{where}: {name} has no member {member!r}; it has {', '.join(members)}")
        if members[member] in given:
            raise ValueError(f"{where}: give value or value_base64, not both")
        given[members[member]] = _decoded(where, value) if member == "value_base64" else value
    try:
        operation = make(key, **given)
        operation.document()
    except (TypeError, ValueError, KVError) as error:
        raise ValueError(f"{where}: {error}") from None
    return operation


def _decoded(where: str, value: object) -> bytes:
    try:
        if not isinstance(value, str):
            raise TypeError
        return base64.b64decode(value, validate=True)
    except (TypeError, binascii.Error):
        raise ValueError(f"{where}: value_base64 is not base64") from None


def add_operations(atomic: Atomic, ops: Iterable[Op]) -> Atomic:
    """Add operations to those that are done together, and return them all."""
    for op in ops:
        members = dict(vars(op))
        if isinstance(op, GetOp) and op.if_revision is not None:
            atomic.check(op.key, op.if_revision)
        elif isinstance(op, GetOp):
            atomic.get(op.key)
        else:
            getattr(atomic, op.document()["op"])(**members)
    return atomic


def result_document(result: Result) -> dict[str, Any]:
    """Return a result as the API writes it."""
    document: dict[str, Any] = {"status": result.status}
    if result.revision is not None:
        document["revision"] = result.revision
    if result.entry is not None:
        expires = None if result.entry.expires is None else moment_text(result.entry.expires)
        document |= {"content_type": result.entry.content_type, "expires": expires}
        document |= value_member(result.entry.value)
    elif result.value is not None:
        document["result"] = result.value
    if result.error is not None:
        document["code"] = result.error.code
        if result.error.detail:
            document["detail"] = result.error.detail
        if isinstance(result.error, PreconditionFailed) and result.error.revision:
            document["revision"] = result.error.revision
    return document
