"""Errors of the client, of two kinds: what was not done, and what may have been done. Pure.

A failed write raises a `Refused` (nothing was done) or an `OutcomeUnknown` (it may or may not have been done), so that
a program always knows which of the two it has. A failed read raises a `Refused` or a `NotAnswered`.

`CODES` names the class of every code that a server sends; the server's own table has the same codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from kvserver.client.model import Entry


class KVError(Exception):
    """Base of all errors of this client.

    Attributes:
        code: stable identifier, the server's or, where no server answered, the client's own.
        status: HTTP status, or None where no server answered.
        title: the code in words.
        detail: what was wrong this time; empty if the title says it all.
        hint: what would be right instead.
        request_id: the server's name for the request, in its log too; or None.
        attempts: how often the request was sent.
        retry_after: seconds after which the server asks to repeat; 0 if it does not say.
        members: further facts of the server's answer.
    """

    code: str = ""
    status: int | None = None
    title: ClassVar[str] = "The request failed"

    def __init__(self, detail: str = "", *, hint: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.request_id: str | None = None
        self.attempts = 0
        self.retry_after = 0.0
        self.members: Mapping[str, object] = {}

    def __str__(self) -> str:
        told = [text.rstrip(".") for text in (self.title, self.detail, self.hint) if text]
        return ". ".join(dict.fromkeys(told))


class Refused(KVError):
    """Nothing was done."""

    code, title = "refused", "The server refuses the request"


class BadRequest(Refused):
    """The request is malformed."""

    code, status, title = "bad_request", 400, "The request is malformed"


class BadKey(BadRequest):
    """The key is not valid: it has 1 to 511 bytes of UTF-8."""

    code, title = "bad_key", "The key is not valid"


class BadCursor(BadRequest):
    """The text is not a cursor of the feed."""

    code, title = "bad_cursor", "This is not a cursor of the feed"


class CrossSlot(BadRequest):
    """The keys of an atomic batch belong to different slots; a common {tag} in braces keeps them together."""

    code, title = "cross_slot", "The keys of an atomic batch belong to different slots"


class Unauthorized(Refused):
    """The request needs a token."""

    code, status, title = "unauthorized", 401, "This request needs a token"


class InvalidToken(Unauthorized):
    """The token is not known, or was revoked."""

    code, title = "invalid_token", "The token is not known"


class BadTicket(Unauthorized):
    """The ticket is not valid any more."""

    code, title = "bad_ticket", "The ticket is not valid"


class Forbidden(Refused):
    """The token does not allow the request."""

    code, status, title = "forbidden", 403, "This request is not allowed"


class ForbiddenOrigin(Forbidden):
    """Pages of this origin may not use the store."""

    code, title = "forbidden_origin", "Pages of this origin may not use the store"


class NotFound(Refused, KeyError):
    """There is no such key."""

    code, status, title = "not_found", 404, "No such key"


class NoSuchResource(Refused):
    """There is nothing at this path: the server may be older than this client."""

    code, status, title = "no_such_resource", 404, "There is nothing at this path"


class MethodNotAllowed(Refused):
    """The resource does not know this method: the server may be older than this client."""

    code, status, title = "method_not_allowed", 405, "The resource does not know this method"


class RequestTimeout(Refused):
    """The request did not arrive in time."""

    code, status, title = "request_timeout", 408, "The request did not arrive in time"


class Conflict(Refused):
    """The operation does not fit what the key holds."""

    code, status, title = "conflict", 409, "The operation does not fit what the key holds"


class NotAnInteger(Conflict):
    """The value is not a whole number that can be added to."""

    code, title = "not_an_integer", "The value is not a whole number that can be added to"


class Overflow(Conflict):
    """The result would not fit a signed integer of 64 bits."""

    code, title = "overflow", "The result would not fit a signed integer of 64 bits"


class NotJson(Conflict):
    """The value is not JSON."""

    code, title = "not_json", "The value is not JSON"


@dataclass(frozen=True)
class Result:
    """What one operation of a batch came to; members that do not apply are None.

    `status` is as HTTP has it; `entry` is what a get found, `value` what an incr or patch made.
    """

    status: int
    revision: int | None = None
    entry: Entry | None = None
    value: Any = None
    error: KVError | None = None

    def check(self) -> Result:
        """Return the result. Raises the error of the operation, if it failed."""
        if self.error is not None:
            raise self.error
        return self


class BatchFailed(Conflict):
    """An operation of an atomic batch failed; nothing was done.

    Attributes:
        failed: index of the operation that failed.
        results: the results of all operations.
    """

    code, title = "batch_failed", "An operation of the atomic batch failed; nothing was done"
    failed: int = -1
    results: Sequence[Result] = ()


class PreconditionFailed(Refused):
    """The condition does not hold.

    Attributes:
        revision: of what is there; 0 if nothing is.
    """

    code, status, title = "precondition_failed", 412, "The condition does not hold"
    revision: int = 0


class Exists(PreconditionFailed):
    """`create` found that the key exists already."""

    title = "The key exists already"


class TooLarge(Refused):
    """Something is larger than the server takes."""

    code, status, title = "too_large", 413, "The request is larger than the server takes"


class ValueTooLarge(TooLarge):
    """The value is larger than the server's --max-value."""

    code, title = "value_too_large", "The value is larger than the server takes"


class AnswerTooLarge(TooLarge):
    """The answer to the batch would be too large."""

    code, title = "answer_too_large", "The answer to the batch would be too large"


class BatchTooLarge(TooLarge):
    """The atomic batch is too large to be written as one."""

    code, title = "batch_too_large", "The atomic batch is too large to be written as one"


class PatchesTooLarge(TooLarge):
    """The patches of the batch have written too much."""

    code, title = "patches_too_large", "The patches of the batch have written too much; this one did nothing"


class KeyTooLong(TooLarge):
    """The key is longer than 511 bytes."""

    code, status, title = "key_too_long", 414, "The key is longer than 511 bytes"


class UriTooLong(TooLarge):
    """The request line is longer than 8 KiB."""

    code, status, title = "uri_too_long", 414, "The request line is longer than 8 KiB"


class HeadersTooLarge(TooLarge):
    """The request's headers are too large."""

    code, status, title = "headers_too_large", 431, "The request headers are too large"


class UnsupportedMediaType(Refused):
    """The server does not take a body of this type or coding."""

    code, status, title = "unsupported_media_type", 415, "A body of this type or coding cannot be taken"


class RangeNotSatisfiable(Refused):
    """The range starts after the end of the value."""

    code, status, title = "range_not_satisfiable", 416, "The range starts after the end of the value"


class Misdirected(Refused):
    """The server is not known under this name."""

    code, status, title = "misdirected", 421, "The server is not known under this name"


class IdempotencyMismatch(Refused):
    """The Idempotency-Key was sent before, with another request."""

    code, status, title = "idempotency_mismatch", 422, "This Idempotency-Key belongs to another request"


class FailedDependency(Refused):
    """Not done, since another operation of the atomic batch failed."""

    code, status, title = "failed_dependency", 424, "Another operation of the atomic batch failed"


class InsufficientStorage(Refused):
    """There is no space left for this write."""

    code, status, title = "insufficient_storage", 507, "There is no space left for this write; nothing was done"


class MemoryLimit(InsufficientStorage):
    """The write would pass the server's memory limit."""

    code, title = "memory_limit", "The write would pass the memory limit; nothing was done"

    @property
    def limit(self) -> int:
        """Bytes that keys and values may take."""
        return _whole(self.members.get("limit"))

    @property
    def used(self) -> int:
        """Bytes that they take."""
        return _whole(self.members.get("used"))

    @property
    def needed(self) -> int:
        """Bytes that the write would add."""
        return _whole(self.members.get("needed"))


class Unavailable(Refused):
    """The server cannot answer now; nothing was done."""

    code, status, title = "unavailable", 503, "The server cannot answer now; nothing was done"


class Overloaded(Unavailable):
    """The server has too much to do."""

    code, title = "overloaded", "The server has too much to do; nothing was done"


class FeedUnavailable(Unavailable):
    """No gateway takes feed connections now."""

    code, title = "feed_unavailable", "No gateway takes feed connections now"


class NotCurrent(Unavailable):
    """This machine of the cluster cannot show that its data are current."""

    code, title = "not_current", "This machine cannot show that its data are current"


class StaleIncarnation(Unavailable):
    """The shard was restarted before it read the request."""

    code = "stale_incarnation"


class DeadlinePassed(Unavailable):
    """The shard read the request too late."""

    code = "deadline_passed"


class ProtocolError(Refused):
    """The processes of the server run different versions."""

    code, status, title = "protocol_error", 500, "A shard could not read the request"


class CannotConnect(Refused):
    """The request did not reach a server: no connection, or it ended before all of the request was sent."""

    code, title = "cannot_connect", "The server cannot be reached; nothing was done"


class OutcomeUnknown(KVError):
    """The write may or may not have been done.

    Attributes:
        current: what the key held when the client looked afterwards, if it did; else None.
    """

    code, title = "outcome_unknown", "The write may or may not have been done"
    current: Entry | None = None


class InternalError(OutcomeUnknown):
    """A fault of the server, while or after it did the write."""

    code, status, title = "internal", 500, "The server failed; the write may or may not have been done"


class NotAnswered(KVError):
    """A read had no answer."""

    code, title = "not_answered", "The server did not answer"


class AnswerWithheld(KVError):
    """The write was done, but its result is withheld: the token may not read it, or the answer was lost.

    Attributes:
        revision: of the write.
    """

    code, title = "answer_withheld", "Done, but the result is withheld"
    revision: int = 0


class Gap(KVError):
    """Changes of the feed are missing: the server does not keep them any more.

    Attributes:
        reason: `trimmed`, `epoch` or `bad_cursor`.
        cursor: where the feed can continue.
    """

    code, title = "gap", "Changes are missing from the feed"
    reason: str = ""
    cursor: str = ""


class LockLost(KVError):
    """The lock was lost while it was held."""

    code, title = "lock_lost", "The lock was lost while it was held"


class ForeignAnswer(Exception):
    """The server that answered is not a kvserver. Inside this package: users get `NotAnswered` or `OutcomeUnknown`."""


def _class_and_descendants(cls: type[KVError]) -> Iterator[type[KVError]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from _class_and_descendants(sub)


_OWN: Final = frozenset((*(cls for cls in KVError.__subclasses__()), Exists, TooLarge, CannotConnect))
"""Classes whose codes no server sends, or that share one."""

CODES: Final[Mapping[str, type[KVError]]] = {
    cls.code: cls for cls in _class_and_descendants(KVError) if cls is not KVError and cls not in _OWN
} | {OutcomeUnknown.code: OutcomeUnknown}
"""The class of every code that a server sends."""

STATUSES: Final[Mapping[int, type[KVError]]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NoSuchResource,
    405: MethodNotAllowed,
    408: RequestTimeout,
    409: Conflict,
    412: PreconditionFailed,
    413: TooLarge,
    414: UriTooLong,
    415: UnsupportedMediaType,
    416: RangeNotSatisfiable,
    421: Misdirected,
    422: IdempotencyMismatch,
    424: FailedDependency,
    429: Overloaded,
    431: HeadersTooLarge,
    503: Unavailable,
    507: InsufficientStorage,
}
"""The class of an error with a code that this client does not know yet, by its status."""


def error_of(status: int, code: str, detail: str = "", hint: str = "", members: Mapping[str, object] = {}) -> KVError:
    """Return the error that a server's answer describes. An unknown code takes the class of its status."""
    cls = CODES.get(code) or STATUSES.get(status) or (Refused if status < 500 else OutcomeUnknown)
    error = cls(detail, hint=hint)
    error.code, error.status, error.members = code or cls.code, status, members
    if isinstance(error, (PreconditionFailed, AnswerWithheld)):
        error.revision = _whole(members.get("revision"))
    return error


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
