"""Every error of the store: one class, with a stable code, an HTTP status, a title and a hint.

The same class is raised where the fault is found (a shard, a worker, a resource), crosses the wire as its code, and is
rendered by the one error handler of the REST application. `kv_error_of` makes one of an error of the operating
system, whose errno (errno(3)) is never reported as another. Pure.
"""

from __future__ import annotations

import errno
from typing import ClassVar, Final

NO_SPACE: Final = frozenset((errno.ENOSPC, errno.EDQUOT))
"""The disk is full, or the quota of this user is."""
EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""The process or the machine has run out of something, for now."""

_WHAT_HELPS: Final = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "this user's quota is used up, make room there",
    errno.EACCES: "give this user the right to",
    errno.EPERM: "give this user the right to",
    errno.EROFS: "mount its file system so that it can be written",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "the machine has no descriptor left, raise fs.file-max",
    errno.ENOMEM: "free some memory",
    errno.EIO: "the disk fails, see the kernel's log",
    errno.ENAMETOOLONG: "shorten the path",
}

DETAIL_CHARACTERS: Final = 1000
"""Most characters of a detail: it may quote what a client has sent, and that may be megabytes."""


class KVError(Exception):
    """Base of all errors that a client may get.

    Attributes:
        code: stable identifier, also on the wire and in `/docs/errors/{code}`.
        status: HTTP status.
        title: the code in words, the same for every occurrence.
        hint: how to do it right.
        detail: what was wrong this time, in at most `DETAIL_CHARACTERS`; empty if the title says it all.
        revision: of `PreconditionFailed`, the revision of what is there, 0 if nothing is; else 0.
        members: further facts for the client, added to the problem document of the error.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    hint: ClassVar[str] = "Repeat the request; if it fails again, see the server's log."

    def __init__(self, detail: str = "") -> None:
        if len(detail) > DETAIL_CHARACTERS:
            detail = detail[: DETAIL_CHARACTERS - 1] + "…"
        super().__init__(detail or self.title)
        self.detail = detail
        self.revision = 0
        self.members: dict[str, object] = {}


class BadRequest(KVError):
    code, status = "bad_request", 400
    title = "The request is malformed"
    hint = "Fix the part named in `detail`."


class BadKey(BadRequest):
    code = "bad_key"
    title = "The key is not valid"
    hint = "A key is percent-encoded UTF-8, 1 to 511 bytes long."


class BadCursor(BadRequest):
    code = "bad_cursor"
    title = "Not a cursor of the feed"
    hint = "Send `since` as a message's `cursor` or the header KV-Cursor had it, or leave it out."


class CrossSlot(BadRequest):
    code = "cross_slot"
    title = "The keys of an atomic batch belong to different slots"
    hint = "Give the keys a common {tag} in braces: only the tag decides on the slot."


class Unauthorized(KVError):
    code, status = "unauthorized", 401
    title = "This request needs a token"
    hint = "Send the header `Authorization: Bearer <token>`."


class InvalidToken(Unauthorized):
    code = "invalid_token"
    title = "The token is not known"
    hint = "Send `Authorization: Bearer <token>` with a token that has not been revoked."


class BadTicket(Unauthorized):
    code = "bad_ticket"
    title = "The ticket is not valid"
    hint = "Get a new ticket from POST /v1/tickets for every connection, and use it at once."


class Forbidden(KVError):
    code, status = "forbidden", 403
    title = "This request is not allowed"
    hint = "See the detail."


class ForbiddenOrigin(Forbidden):
    """The request comes from a page in a browser whose origin is not listed."""

    code = "forbidden_origin"
    title = "Pages of this origin may not use the store"
    hint = "List the origin of the page in --origins, or serve the page from one that is listed."


class NotFound(KVError):
    code, status = "not_found", 404
    title = "No such key"
    hint = "PUT creates a key."


class NoSuchResource(KVError):
    code, status = "no_such_resource", 404
    title = "There is nothing at this path"
    hint = "In MemoryKV's routes, a slash inside a key is %2F."


class MethodNotAllowed(KVError):
    code, status = "method_not_allowed", 405
    title = "Method not allowed"
    hint = "The Allow header lists the methods."


class RequestTimeout(KVError):
    code, status = "request_timeout", 408
    title = "request timed out"
    hint = "Send the head of a request within 10 seconds, and its body without long pauses: see --min-upload-rate."


class Conflict(KVError):
    code, status = "conflict", 409
    title = "The operation does not fit the value"
    hint = "Read the key, and put a value that fits."


class NotAnInteger(Conflict):
    code = "not_an_integer"
    title = "The value is not an integer"
    hint = "An increment needs a value of decimal digits, with or without a minus sign, within 64 bits."


class Overflow(Conflict):
    code = "overflow"
    title = "The result would not fit a signed integer of 64 bits"
    hint = "The value is unchanged; add less, or put a smaller number."


class NotJson(Conflict):
    code = "not_json"
    title = "The value is not JSON"
    hint = "A merge patch needs a value that is JSON, whatever its content type; PUT one."


class BatchFailed(Conflict):
    """An atomic batch of which nothing was done."""

    code = "batch_failed"
    title = "An operation of the atomic batch failed; nothing was done"
    hint = "`failed` is the index of the operation, and its result says why."


class PreconditionFailed(KVError):
    """A condition does not hold. `revision`: of what is there, 0 if nothing is."""

    code, status = "precondition_failed", 412
    title = "Precondition failed"
    hint = "Read the key again, and use its current revision."

    def __init__(self, detail: str = "", revision: int = 0) -> None:
        super().__init__(detail)
        self.revision = revision


class ValueTooLarge(KVError):
    code, status = "value_too_large", 413
    title = "length limit exceeded"
    hint = "Send a smaller value, or raise --max-value."


class AnswerTooLarge(KVError):
    code, status = "answer_too_large", 413
    title = "The answer to the batch would be too large"
    hint = "The answer already has 32 MiB of values; get the others in another batch."


class BatchTooLarge(KVError):
    code, status = "batch_too_large", 413
    title = "The atomic batch is too large to be written as one"
    hint = (
        "An atomic batch has at most 10,000 operations and writes at most 48 MiB, values that it touches included; "
        "its patches handle at most 24 MiB."
    )


class PatchesTooLarge(KVError):
    code, status = "patches_too_large", 413
    title = "The patches of the batch write too much; this one was not done"
    hint = "Each patch writes the whole value. Send fewer of one batch, or put the whole value."


class KeyTooLong(KVError):
    code, status = "key_too_long", 414
    title = "The key is longer than 511 bytes"
    hint = "A key is at most 511 bytes of UTF-8."


class UriTooLong(KVError):
    code, status = "uri_too_long", 414
    title = "The request line is longer than 8 KiB"
    hint = "Shorten the path or the query."


class UnsupportedMediaType(KVError):
    code, status = "unsupported_media_type", 415
    title = "The type or coding of the body is not supported"
    hint = "A PATCH is a JSON merge patch, application/merge-patch+json; no body may have a Content-Encoding."


class RangeNotSatisfiable(KVError):
    code, status = "range_not_satisfiable", 416
    title = "The range starts after the end of the value"
    hint = "Content-Range has the size of the value."


class Misdirected(KVError):
    """The Host is a name that a page might have given this server (DNS rebinding)."""

    code, status = "misdirected", 421
    title = "The server does not accept this host name"
    hint = "Use its address or localhost, or list the name in --allowed-hosts."


class IdempotencyMismatch(KVError):
    """The Idempotency-Key was sent before, with another request, which was done."""

    code, status = "idempotency_mismatch", 422
    title = "The Idempotency-Key belongs to another request; nothing was done"
    hint = "Make a new key for every request, and repeat a request unchanged: method, URL, headers and body."


class FailedDependency(KVError):
    code, status = "failed_dependency", 424
    title = "Not done, because another operation of the atomic batch failed"
    hint = "Fix the operation that failed, and send the whole batch again."


class HeadersTooLarge(KVError):
    code, status = "headers_too_large", 431
    title = "The request headers are larger than 64 KiB, or more than 500"
    hint = "Send fewer or shorter headers."


class Overloaded(KVError):
    code, status = "overloaded", 503
    title = "service is overloaded, try again later"
    hint = "Repeat the request after the seconds given in Retry-After."


class Unavailable(KVError):
    """Not executed: the shard is down, never got the request, or refused it."""

    code, status = "unavailable", 503
    title = "The shard that owns the key is not available; nothing was done"
    hint = "Repeat the request after the seconds given in Retry-After."


class NoFeed(Unavailable):
    """No gateway can take the connection."""

    code = "feed_unavailable"
    title = "No gateway accepts feed connections now"
    hint = "Connect again after the seconds given in Retry-After; other requests are served."


class NotCurrent(Unavailable):
    """A machine of a cluster that cannot tell whether what it has is what the others have."""

    code = "not_current"
    title = "This machine cannot show that its data are current"
    hint = (
        "Repeat the request after the seconds given in Retry-After, or send it to another machine of the cluster. If "
        "that goes on, see `cluster` in GET /v1/status: this machine is cut off or behind, or most of the others are."
    )


class OutcomeUnknown(KVError):
    """The request was handed to a shard whose answer never came."""

    code, status = "outcome_unknown", 504
    title = "The shard did not answer: the write may or may not have been done"
    hint = "If it had an Idempotency-Key, repeat it with the same one; else read the key before you repeat it."


class InsufficientStorage(KVError):
    code, status = "insufficient_storage", 507
    title = "There is no space left for this write; nothing was done"
    hint = "Deletes still work; free space in the data directory or the map directory."


class MemoryLimit(InsufficientStorage):
    """Keys and values would take more than --max-memory. `members`: limit, used and needed, in bytes."""

    code = "memory_limit"
    title = "The write would exceed the memory limit; nothing was done"
    hint = "Deletes and values that do not grow still work. Raise --max-memory, or use --on-full evict."

    @classmethod
    def of(cls, limit: int, used: int, needed: int) -> MemoryLimit:
        """`used` of `limit` bytes are taken, and the write would add `needed`."""
        error = cls(f"{used} of {limit} bytes are used, {needed} more are needed")
        error.members = {"limit": limit, "used": used, "needed": needed}
        return error


class StaleIncarnation(Unavailable):
    """A shard refused a message that was meant for its predecessor. Not executed."""

    code = "stale_incarnation"


class DeadlinePassed(Unavailable):
    """A shard dropped a message whose deadline had passed. Not executed."""

    code = "deadline_passed"


class ProtocolError(KVError):
    """A message to a shard that its protocol does not define. Not executed."""

    code = "protocol_error"
    title = "A shard could not read the request"
    hint = "All processes of a store must run the same version."


def _class_and_descendants(cls: type[KVError]) -> list[type[KVError]]:
    return [cls, *(c for sub in cls.__subclasses__() for c in _class_and_descendants(sub))]


ERRORS: dict[str, type[KVError]] = {cls.code: cls for cls in _class_and_descendants(KVError)}
"""Every error class by its code."""


def from_code(code: str, detail: str = "") -> KVError:
    """Build the error that a code names, as received from another process; an unknown code gives a `KVError`."""
    return ERRORS.get(code, KVError)(detail)


def kv_error_of(error: OSError, what: str) -> KVError:
    """Translate `error` into the error for the client whose request failed; `what`: a clause that says what could not
    be done.
    """
    detail = f"{what}: {error.strerror}"
    if error.errno in NO_SPACE:
        return InsufficientStorage(detail)
    return Overloaded(detail) if error.errno in EXHAUSTED else KVError(detail)


def what_helps(error: OSError) -> str:
    """Return what the operator can do about `error`, as part of a sentence."""
    return _WHAT_HELPS.get(error.errno or 0, "fix it")
