"""Errors of the client as words, as JSON and as exit statuses. Pure."""

from __future__ import annotations

from typing import Any, Final

from kvserver.client.errors import (
    AnswerWithheld,
    BadRequest,
    CannotConnect,
    Conflict,
    Forbidden,
    KVError,
    LockLost,
    NotAnswered,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    RequestTimeout,
    Unauthorized,
    Unavailable,
)
from kvserver.commands.parts.statuses import ABSENT, CONDITION, FAILED, MISUSE, NOT_ALLOWED, UNKNOWN, UNREACHABLE

_BY_CLASS: Final[tuple[tuple[tuple[type[KVError], ...], int], ...]] = (
    ((AnswerWithheld,), 0),
    ((OutcomeUnknown,), UNKNOWN),
    ((NotFound,), ABSENT),
    ((PreconditionFailed, Conflict, LockLost), CONDITION),
    ((Unauthorized, Forbidden), NOT_ALLOWED),
    ((Unavailable, CannotConnect, NotAnswered, RequestTimeout), UNREACHABLE),
    ((BadRequest,), MISUSE),
)


def status_of(error: KVError) -> int:
    """Return the exit status that an error of the client means."""
    return next((status for classes, status in _BY_CLASS if isinstance(error, classes)), FAILED)


def words_of(error: KVError) -> str:
    """Return an error as a line for people."""
    words = str(error)
    if error.attempts > 1:
        words += f" (tried {error.attempts} times)"
    if error.request_id and error.status and error.status >= 500:
        words += f" (request {error.request_id})"
    return words


def problem_document(error: KVError) -> dict[str, Any]:
    """Return an error as the problem document of the server, with what the client adds."""
    document = {
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        "hint": error.hint,
        "request_id": error.request_id,
        "attempts": error.attempts,
    }
    kept = {name: member for name, member in document.items() if member not in (None, "")}
    return {**kept, **{name: member for name, member in error.members.items() if name not in document}}
