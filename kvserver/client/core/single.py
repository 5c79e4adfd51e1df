"""The calls about one key. Pure.

Every function takes the `prefix` of the client, which precedes the user's key on the wire and is taken off again
in what comes back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from kvserver.client.core.answers import http_date_of, is_problem, moment_of, revision_of
from kvserver.client.core.calls import Answer, Call, Kind
from kvserver.client.core.paths import Parameters, key_path, with_query
from kvserver.client.core.values import body_of, document_bytes, expires_text, ttl_text, whole
from kvserver.client.errors import (
    AnswerWithheld,
    BadRequest,
    Exists,
    ForeignAnswer,
    KVError,
    PreconditionFailed,
)
from kvserver.client.model import (
    UNCHANGED,
    Entry,
    Exchanged,
    Expires,
    Meta,
    Patched,
    Ttl,
    Unchanged,
    Unset,
    Value,
    Written,
)

T = TypeVar("T")
_ABSENT: Final = frozenset((404,))
_INT64: Final = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_MERGE_PATCH: Final = "application/merge-patch+json"


@dataclass(frozen=True)
class Content:
    """What a put stores."""

    body: bytes
    content_type: str
    ttl: str | None
    expires: str | None

    @classmethod
    def of(
        cls,
        value: Value | Unset,
        document: object,
        content_type: str | None,
        ttl: Ttl | None,
        expires: Expires | None,
    ) -> Content:
        """Return what a user's arguments say. Raises `TypeError`, `ValueError`, `BadRequest`."""
        if ttl is not None and expires is not None:
            raise BadRequest("give ttl or expires, not both")
        return cls(*body_of(value, document, content_type), ttl_text(ttl), expires_text(expires))


def get(prefix: str, key: str, range: tuple[int, int | None] | None = None) -> Call[Entry | None]:
    """Return the call that reads a value, or of it the bytes from the first to the last of `range`, both included."""

    def read(answer: Answer) -> Entry | None:
        return None if _is_absent(answer) else _entry_of(key, answer)

    headers = {} if range is None else {"Range": _range_text(range)}
    return Call("GET", key_path(prefix + key), read, headers=headers, accepts=_ABSENT)


def head(prefix: str, key: str) -> Call[Meta | None]:
    """Return the call that reads what is known of a key, without its value."""

    def read(answer: Answer) -> Meta | None:
        if _is_absent(answer):
            return None
        size = answer.headers.get("content-length", "")
        if answer.status != 200 or not size.isdigit():
            raise ForeignAnswer(f"an answer {answer.status} without the size of the value")
        return Meta(key, int(size), revision_of(answer), _type_of(answer), *_times_of(answer))

    return Call("HEAD", key_path(prefix + key), read, accepts=_ABSENT)


def get_if_changed(prefix: str, key: str, revision: int) -> Call[Entry | Unchanged | None]:
    """Return the call that reads a value unless its revision is `revision`."""

    def read(answer: Answer) -> Entry | Unchanged | None:
        if answer.status == 304:
            return UNCHANGED
        return None if _is_absent(answer) else _entry_of(key, answer)

    headers = {"If-None-Match": f'"{whole(revision, "a revision")}"'}
    return Call("GET", key_path(prefix + key), read, headers=headers, accepts=_ABSENT)


def put(
    prefix: str, key: str, content: Content, if_revision: int | None = None, idempotent: bool = False
) -> Call[Written]:
    """Return the call that stores a value.

    `if_revision`: only over this revision, 0: only if the key is absent. `idempotent`: if the outcome is unknown and
    the key then holds exactly what was sent, it counts as done.
    """
    return _put(prefix, key, content, if_revision, idempotent, _read_written)


def create(prefix: str, key: str, content: Content) -> Call[Written]:
    """Return the call that stores a value under a key that is absent; its error is `Exists` if the key is not."""
    return _put(prefix, key, content, 0, False, _read_written, _exists_of)


def exchange(prefix: str, key: str, content: Content, if_revision: int | None = None) -> Call[Exchanged]:
    """Return the call that stores a value and reads the one before."""

    def read(answer: Answer) -> Exchanged:
        if answer.status == 201:
            return Exchanged(revision_of(answer), None)
        if answer.status != 200:
            raise _withheld(answer)
        before = revision_of(answer, "kv-previous-revision")
        return Exchanged(revision_of(answer), Entry(key, answer.body, before, _type_of(answer)))

    return _put(prefix, key, content, if_revision, False, read, also=(("return", "previous"),))


def _put(
    prefix: str,
    key: str,
    content: Content,
    if_revision: int | None,
    idempotent: bool,
    read: Callable[[Answer], T],
    refuse: Callable[[KVError, Answer], KVError] | None = None,
    also: Parameters = (),
) -> Call[T]:
    def done_if(entry: Entry | None) -> Any:
        same = entry and (entry.value, entry.content_type) == (content.body, content.content_type)
        return Written(entry.revision) if entry and same else None

    parameters = [*also, ("ttl", content.ttl), ("expires", content.expires)]
    return Call(
        "PUT",
        with_query(key_path(prefix + key), parameters),
        read,
        _kind_of(if_revision),
        {"Content-Type": content.content_type, **_condition(if_revision)},
        content.body,
        refuse=refuse,
        look=get(prefix, key),
        done_if=done_if if idempotent else None,
    )


def patch(prefix: str, key: str, merge: object, if_revision: int | None = None) -> Call[Patched]:
    """Return the call that merges a JSON merge patch into a value."""

    def read(answer: Answer) -> Patched:
        if answer.status not in (200, 201) or not answer.body:
            raise _withheld(answer)
        try:
            return Patched(revision_of(answer), json.loads(answer.body))
        except ValueError:
            raise ForeignAnswer("a patched value that is not JSON") from None

    return _change("PATCH", prefix, key, (), read, if_revision, document_bytes(merge), _MERGE_PATCH)


def incr(
    prefix: str, key: str, by: int = 1, ttl_if_new: Ttl | None = None, if_revision: int | None = None
) -> Call[int]:
    """Return the call that adds to a whole number; an absent key counts as 0."""

    def read(answer: Answer) -> int:
        if answer.status not in (200, 201) or not answer.body:
            raise _withheld(answer)
        text = answer.body.decode("latin-1")
        if not _INT64.fullmatch(text):
            raise ForeignAnswer("an answer that is no whole number of 64 bits")
        revision_of(answer)
        return int(text)

    if isinstance(by, bool) or not isinstance(by, int):
        raise TypeError(f"an increment is a whole number, not {type(by).__name__}")
    parameters = (("incr", str(by)), ("ttl_if_new", ttl_text(ttl_if_new)))
    return _change("POST", prefix, key, parameters, read, if_revision)


def touch(
    prefix: str,
    key: str,
    ttl: Ttl | None = None,
    expires: Expires | None = None,
    persist: bool = False,
    if_revision: int | None = None,
) -> Call[int]:
    """Return the call that changes the expiry of a key alone."""
    if (ttl is not None) + (expires is not None) + persist != 1:
        raise BadRequest("give one of ttl, expires and persist=True")
    parameters = (
        ("ttl", ttl_text(ttl)),
        ("expires", expires_text(expires)),
        ("persist", "true" if persist else None),
    )
    return _change("POST", prefix, key, parameters, _read_revision, if_revision)


def delete(prefix: str, key: str, if_revision: int | None = None) -> Call[bool]:
    """Return the call that deletes a key and returns whether it existed."""

    def read(answer: Answer) -> bool:
        if _is_absent(answer):
            return False
        revision_of(answer)
        return True

    return _change("DELETE", prefix, key, (), read, if_revision, accepts=_ABSENT)


def _change(
    method: str,
    prefix: str,
    key: str,
    parameters: Parameters,
    read: Callable[[Answer], T],
    if_revision: int | None,
    body: bytes = b"",
    content_type: str | None = None,
    accepts: frozenset[int] = frozenset(),
) -> Call[T]:
    headers = {"Content-Type": content_type} if content_type else {}
    return Call(
        method,
        with_query(key_path(prefix + key), parameters),
        read,
        _kind_of(if_revision),
        {**headers, **_condition(if_revision)},
        body,
        accepts,
        look=get(prefix, key),
    )


def _kind_of(if_revision: int | None) -> Kind:
    if if_revision is None:
        return Kind.WRITE
    return Kind.CONDITIONAL if if_revision else Kind.CREATE


def _condition(if_revision: int | None) -> dict[str, str]:
    if if_revision is None:
        return {}
    text = whole(if_revision, "if_revision")
    return {"If-Match": f'"{text}"'} if if_revision else {"If-None-Match": "*"}


def _range_text(span: tuple[int, int | None]) -> str:
    first, last = span
    if last is not None and last < first:
        raise BadRequest(f"a range ends where it starts or behind, not ({first}, {last})")
    end = "" if last is None else whole(last, "the end of a range")
    return f"bytes={whole(first, 'the start of a range')}-{end}"


def _is_absent(answer: Answer) -> bool:
    """Tell whether the server says that there is no such key. Raises `ForeignAnswer` for any other 404."""
    if answer.status != 404:
        return False
    if not is_problem(answer):
        raise ForeignAnswer("a 404 that is no kvserver's")
    return True


def _entry_of(key: str, answer: Answer) -> Entry:
    if answer.status not in (200, 206):
        raise ForeignAnswer(f"an answer {answer.status} to a read")
    return Entry(key, answer.body, revision_of(answer), _type_of(answer), *_times_of(answer))


def _times_of(answer: Answer) -> tuple[Any, Any]:
    headers = answer.headers
    return moment_of(headers.get("kv-expires")), http_date_of(headers.get("last-modified"))


def _type_of(answer: Answer) -> str:
    return answer.headers.get("content-type", "")


def _read_written(answer: Answer) -> Written:
    if answer.status not in (201, 204):
        raise ForeignAnswer(f"an answer {answer.status} to a PUT")
    return Written(revision_of(answer), answer.status == 201)


def _read_revision(answer: Answer) -> int:
    return revision_of(answer)


def _withheld(answer: Answer) -> AnswerWithheld:
    replayed = answer.headers.get("idempotency-replayed") == "true"
    why = "its answer was lost, and the repeat does not tell it" if replayed else "the token may not read the key"
    error = AnswerWithheld(why)
    error.revision = revision_of(answer)
    return error


def _exists_of(error: KVError, answer: Answer) -> KVError:
    if not isinstance(error, PreconditionFailed):
        return error
    exists = Exists(error.detail, hint=error.hint)
    exists.__dict__.update(error.__dict__)
    return exists
