"""Answers to requests for one key, and how a shard's reply becomes one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from kvserver.access.grants import Grants
from kvserver.api.conditions import etag
from kvserver.http.idempotency import REPLAYED
from kvserver.http.value_headers import CACHING, body_headers, revision_headers
from kvserver.one_key.changes import Change
from shards.wire.errors import Conflict, KVError, NotFound, PreconditionFailed
from shards.wire.protocol import Delete, Done, Incr, Patch, Put, Replaced, Replayed, Reply, Touch, Value

Fields = list[tuple[str, str]]
"""Header fields, names in lower case."""

_REPLAYED: Final = (REPLAYED.lower(), "true")


class Answer(msgspec.Struct, frozen=True):
    """An answer whose body has no coding.

    Attributes:
        status: of HTTP.
        headers: those of this answer, without Content-Length where the length is that of the body.
        body: of the answer; of a 304, the value that a 200 would have.
        coded_type: the type of a body that is sent in a coding if that is worth it; None: the body is sent as it is.
        revision: of the body, if the ETag is that of the body.
        known: codings in which the client of a 304 has the value; empty: all that it accepts.
    """

    status: int
    headers: Fields
    body: bytes = b""
    coded_type: str | None = None
    revision: int = 0
    known: Sequence[str] = ()

    def with_coding(self, coding: str, body: bytes) -> Answer:
        """Return this answer with its body in a coding, which is `body` then."""
        if self.known and coding not in self.known:
            coding = self.known[0]
        headers: Fields = []
        for field in self.headers:
            if field[0] == "etag" and self.revision:
                field = ("etag", etag(self.revision, coding))
            if field[0] != "content-length":  # that of a HEAD, which the body has now
                headers.append(field)
            if field is CACHING and self.status != 304:
                headers.append(("content-encoding", coding))
        if CACHING not in headers:  # it is no stored value
            headers.append(("content-encoding", coding))
        return msgspec.structs.replace(self, headers=headers, body=body)


def answer_change(grants: Grants, change: Change, reply: Reply) -> Answer:
    """Return the answer to the client with `grants` that asked for `change`; `reply` is the shard's.

    Raises `NotFound` if there was nothing to change.
    """
    if isinstance(reply, Replayed):
        assert isinstance(reply.reply, Done | Value)
        answer = _ANSWERS[type(change)](grants, change, reply.reply, reply.withheld)
        return msgspec.structs.replace(answer, headers=[_REPLAYED, *answer.headers])
    return _ANSWERS[type(change)](grants, change, reply, False)


def _answer_put(grants: Grants, change: Put, done: Done, is_withheld: bool) -> Answer:
    """201 or 204; 200 with what was replaced, if that was asked for."""
    headers = revision_headers(done.revision, expires_ms=done.expires_ms)
    if isinstance(done, Replaced) and not is_withheld:
        headers.append(("kv-previous-revision", str(done.previous_revision)))
        headers += body_headers(done.previous_type)
        return Answer(200, headers, done.previous or b"", done.previous_type)
    return Answer(204 if done.existed else 201, headers)


def _answer_touch(grants: Grants, change: Touch, done: Done, is_withheld: bool) -> Answer:
    """204."""
    if not done.existed:
        raise NotFound
    return Answer(204, revision_headers(done.revision, expires_ms=done.expires_ms))


def _answer_delete(grants: Grants, change: Delete, done: Done, is_withheld: bool) -> Answer:
    """204, without an ETag."""
    if not done.existed:
        raise NotFound
    return Answer(204, [("kv-revision", str(done.revision))])


def _answer_value(grants: Grants, change: Incr | Patch, made: Value, is_withheld: bool) -> Answer:
    """200 or 201 with the value that was made; 204 without the right to read it, 201 or 204 if it is withheld."""
    if not grants.may("read", change.key):
        return Answer(204, revision_headers(made.revision))
    headers = revision_headers(made.revision, expires_ms=made.expires_ms)
    if is_withheld:
        return Answer(204 if made.existed else 201, headers)
    headers = body_headers(made.content_type) + headers
    return Answer(200 if made.existed else 201, headers, made.value, made.content_type, made.revision)


_ANSWERS: Final[dict[type[Change], Callable[[Grants, Any, Any, bool], Answer]]] = {
    Put: _answer_put,
    Touch: _answer_touch,
    Delete: _answer_delete,
    Incr: _answer_value,
    Patch: _answer_value,
}
"""From the type of a change to its answer, which gets the reply, and whether values are left out of that."""


def redact(grants: Grants, key: bytes, error: KVError) -> KVError:
    """Return `error` about `key` for the bearer of `grants`.

    Without the right to read it gives the status only, no details of the stored value.
    """
    if isinstance(error, Conflict | PreconditionFailed) and not grants.may("read", key):
        return type(error)()
    return error
