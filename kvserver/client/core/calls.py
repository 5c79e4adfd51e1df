"""Requests, what becomes of them, and the steps of which scripts are made. Pure.

A `Call` is a request together with the function that reads its answer. A *script* is a generator that yields steps,
which a shell carries out, and gets their results: a `Call` (result: what its answer says), a `Sleep`, an `Await`. The
policy of repeats is a script too, of `Attempt` (result: `Answer` or `Lost`), `Renew` and `Sleep`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from kvserver.client.errors import KVError

T = TypeVar("T")


class Kind(enum.Enum):
    """What repeating a call may do."""

    READ = "read"
    """Nothing."""
    WRITE = "write"
    """The write a second time."""
    CREATE = "create"
    """A write on the condition that the key is absent: a second time, if the key was deleted in the meantime."""
    CONDITIONAL = "conditional"
    """A write on the condition of a revision: at most one of two can succeed."""
    ONCE = "once"
    """Harm, and the server does not remember its outcome."""


@dataclass(frozen=True)
class Answer:
    """A whole answer. Names of headers are in lower case; `at`: when it was there, by a monotonic clock in seconds."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    at: float = 0.0


@dataclass(frozen=True)
class Lost:
    """There was no whole answer. `sent`: all of the request went to the kernel, so that a server may have read it."""

    why: str
    sent: bool
    at: float = 0.0


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and how its answer is read.

    `accepts`: statuses from 400 that `read` understands, besides all below 400; `refuse` may turn the error into a
    better one; `look` reads the key after a write whose outcome is unknown; `done_if` returns the write's result if
    what was read is exactly what was sent, else None.
    """

    method: str
    target: str
    read: Callable[[Answer], T]
    kind: Kind = Kind.READ
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    accepts: frozenset[int] = frozenset()
    refuse: Callable[[KVError, Answer], KVError] | None = None
    look: Call[Any] | None = None
    done_if: Callable[[Any], T | None] | None = None


@dataclass(frozen=True)
class Attempt:
    """Send the call once. `idempotency_key` goes with it, if there is one. Result: `Answer` or `Lost`."""

    call: Call[Any]
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Renew:
    """Ask for the token again. Result: whether there is one to ask for."""


@dataclass(frozen=True)
class Sleep:
    """Wait for a random time between 0 and `jitter` seconds, but for at least `least` and at most `most`.

    `error` is why, and `attempts` how often the request was sent before; both are None and 0 if nothing failed.
    """

    jitter: float
    least: float = 0.0
    most: float = float("inf")
    error: KVError | None = None
    attempts: int = 0


@dataclass(frozen=True)
class Await:
    """Call a function of the user. Result: what it returns; of an awaitable, in an asynchronous shell, its result."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


Step = Call[Any] | Attempt | Renew | Sleep | Await
Script = Generator[Step, Any, T]
