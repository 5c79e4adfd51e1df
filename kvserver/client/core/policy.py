"""What an outcome means, and whether the request is repeated. Pure.

| outcome | a read | a write with an Idempotency-Key | a write without | on a revision, without |
| --- | --- | --- | --- | --- |
| not all of the request was sent | repeat | repeat | repeat | repeat |
| lost afterwards, time-out, a proxy's 500, 502, 504, `internal`, `outcome_unknown` | repeat | repeat | raise | repeat |
| 503, 408, 429 | repeat | repeat | repeat | repeat |
| any other error | raise | raise | raise | raise; 412 and 404 after a loss: look at the key |

Repeats end when the patience is used up, which counts from the first failure. Then the last error is raised, but
`OutcomeUnknown` if any attempt may have been done: that one is lost and the next one is refused for being unauthorized
does not make it undone.

Of a client with several servers each attempt after a failure goes to the next, at once until all were asked, then after
a delay. The 503 of one server says nothing about the others, and a repeat with the same Idempotency-Key is done once
wherever it goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeVar

from kvserver.client.core.answers import is_problem, problem_of
from kvserver.client.core.calls import Answer, Attempt, Call, Kind, Lost, Renew, Script, Sleep
from kvserver.client.errors import (
    CannotConnect,
    ForeignAnswer,
    InternalError,
    KVError,
    NotAnswered,
    OutcomeUnknown,
    Overloaded,
    RequestTimeout,
    Unauthorized,
    Unavailable,
)
from kvserver.client.model import Options

T = TypeVar("T")

FIRST_DELAY_S: Final = 0.05
LONGEST_DELAY_S: Final = 2.0

_WITHOUT_KEY: Final = frozenset((Kind.READ, Kind.ONCE))
_OF_PROXIES: Final = frozenset((500, 502, 504))
_FOR_NOW: Final = (Unavailable, Overloaded, RequestTimeout)
_OF_ONE_SERVER: Final = frozenset((500, 502, 503, 504))
"""Statuses that another server of the store may not answer."""
_BEFORE_THE_WRITE: Final = frozenset((401, 403, 408, 421, 429, 503, 507))
"""Statuses that are decided before the server looks for the outcome that it remembers."""
_OF_THE_KEY: Final = frozenset((404, 412))
"""Refusals that one's own earlier write explains."""


@dataclass(frozen=True)
class Failure:
    """An attempt that failed. `again`: it may be repeated; `unknown`: a write may have been done."""

    error: KVError
    again: bool
    unknown: bool = False


def perform(call: Call[T], options: Options, idempotency_key: str, servers: int = 1) -> Script[T]:
    """Return the script that sends `call`, repeats it where that is safe, and returns what the answer says.

    `servers`: how many there are, each of which is asked after the one before it failed. Raises `KVError`.
    """
    key = idempotency_key if options.idempotency and call.kind not in _WITHOUT_KEY else None
    attempts, renewed = 0, False
    give_up_at: float | None = None
    unknown: KVError | None = None
    while True:
        outcome = yield Attempt(call, key)
        attempts += 1
        result = judge(call, outcome, key is not None)
        if not isinstance(result, Failure):
            if unknown and key is None and isinstance(outcome, Answer) and outcome.status in _OF_THE_KEY:
                raise unknown  # a delete, and the key is gone now: perhaps by an attempt before
            return result[0]
        error, again = result.error, result.again
        error.attempts = attempts
        if isinstance(error, Unauthorized) and not renewed:
            renewed = True
            if (yield Renew()):
                continue
        if result.unknown:
            unknown = error
        elif unknown and not again:
            return (yield from _end(call, error, unknown, key is not None))
        if give_up_at is None:
            give_up_at = outcome.at + options.patience
        left = give_up_at - outcome.at
        is_elsewhere = attempts % servers != 0 and is_answered_better_elsewhere(outcome)
        least = 0.0 if is_elsewhere else error.retry_after
        if not again or left <= 0 or least >= left:
            if unknown and call.kind is Kind.CREATE and not again:
                yield from _look(call, unknown)
            raised = unknown or error
            raised.attempts = attempts
            raise raised
        yield Sleep(0.0 if is_elsewhere else _delay_after(attempts // servers), least, left, error, attempts)


def is_answered_better_elsewhere(outcome: Answer | Lost) -> bool:
    """Return whether another server of the store may answer what this one did not."""
    return isinstance(outcome, Lost) or outcome.status in _OF_ONE_SERVER


def _delay_after(rounds: int) -> float:
    """Return the longest delay in seconds after all servers failed so often."""
    return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(max(rounds - 1, 0), 10))


def _end(call: Call[T], error: KVError, unknown: KVError, keyed: bool) -> Script[T]:
    """Decide about a write that was refused after an attempt that may have been done."""
    unknown.attempts = error.attempts
    if error.status in _BEFORE_THE_WRITE:
        raise unknown from error
    if keyed or error.status not in _OF_THE_KEY:
        raise error
    entry = yield from _look(call, unknown)
    done = call.done_if(entry) if call.done_if else None
    if done is None:
        raise unknown from error
    return done


def _look(call: Call[Any], unknown: KVError) -> Script[Any]:
    """Read what the key holds now into `unknown.current`, once; None if there is no answer."""
    if call.look is None:
        return None
    outcome = yield Attempt(call.look)
    result = judge(call.look, outcome, False)
    entry = None if isinstance(result, Failure) else result[0]
    if isinstance(unknown, OutcomeUnknown):
        unknown.current = entry
    return entry


def error_of_stream(call: Call[Any], outcome: Answer | Lost) -> KVError:
    """Return the error of an attempt to open a stream, which succeeds by status 200 alone."""
    result = judge(call, outcome, keyed=False)
    error = result.error if isinstance(result, Failure) else _foreign(call, "an answer that is no stream").error
    error.attempts = 1
    return error


def judge(call: Call[T], outcome: Answer | Lost, keyed: bool) -> tuple[T] | Failure:
    """Return the result of an attempt, in a tuple of its own, or why it failed."""
    if isinstance(outcome, Lost):
        return _lost(call, outcome.why, keyed) if outcome.sent else Failure(CannotConnect(outcome.why), True)
    if 300 < outcome.status < 400 and "location" in outcome.headers:
        where = outcome.headers["location"]
        return _useless(call, f"a redirect ({outcome.status}) to {where}: give the client that URL")
    if outcome.status < 400 or outcome.status in call.accepts:
        try:
            return (call.read(outcome),)
        except ForeignAnswer as why:
            return _foreign(call, str(why))
        except KVError as told:
            told.request_id = outcome.headers.get("x-request-id")
            return Failure(told, again=False)
    error = problem_of(outcome)
    if isinstance(error, _FOR_NOW):
        return Failure(error, again=True)
    if not is_problem(outcome):
        if outcome.status not in _OF_PROXIES:
            return _foreign(call, f"an answer {outcome.status} without a problem document")
        return _lost(call, f"a proxy answers {outcome.status}", keyed)
    if isinstance(error, (InternalError, OutcomeUnknown)):
        failure = _lost(call, "", keyed)
        kept = error if call.kind is not Kind.READ else _as_read(error)
        return Failure(kept, failure.again, failure.unknown)
    return Failure(call.refuse(error, outcome) if call.refuse else error, again=False)


def _lost(call: Call[Any], why: str, keyed: bool) -> Failure:
    if call.kind is Kind.READ:
        return Failure(NotAnswered(why), again=True)
    return Failure(OutcomeUnknown(why), again=keyed or call.kind is Kind.CONDITIONAL, unknown=True)


def _foreign(call: Call[Any], why: str) -> Failure:
    """Return the failure of an answer that is no kvserver's."""
    return _useless(call, f"what answers is no kvserver: {why}")


def _useless(call: Call[Any], told: str) -> Failure:
    """Return the failure of an answer that will not become another by a repeat."""
    if call.kind is Kind.READ:
        return Failure(NotAnswered(told), again=False)
    return Failure(OutcomeUnknown(told), again=False, unknown=True)


def _as_read(error: KVError) -> KVError:
    told = NotAnswered(error.detail or error.title, hint=error.hint)
    told.status, told.request_id, told.retry_after = error.status, error.request_id, error.retry_after
    return told
