"""What the tables of operations are made of. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from kvserver.api.query import NOTHING, Schema, Table
from kvserver.description.headers import Header
from shards.wire.errors import (
    BadRequest,
    ForbiddenOrigin,
    HeadersTooLarge,
    InsufficientStorage,
    InvalidToken,
    KVError,
    MemoryLimit,
    Misdirected,
    NotCurrent,
    OutcomeUnknown,
    Overloaded,
    ProtocolError,
    RequestTimeout,
    Unauthorized,
    Unavailable,
    UriTooLong,
    ValueTooLarge,
)

EXAMPLE_URL: Final = "http://localhost:8080"
"""Where the server of examples is. What is served has the address in its place that was asked."""

JSON: Final = "application/json"
HTML: Final = "text/html"
OCTETS: Final = "application/octet-stream"
ANY: Final = "*/*"

ErrorClasses = tuple[type[KVError], ...]

ALWAYS: Final[ErrorClasses] = (
    BadRequest,
    ForbiddenOrigin,
    RequestTimeout,
    ValueTooLarge,
    UriTooLong,
    Misdirected,
    HeadersTooLarge,
    KVError,
    Overloaded,
)
"""Errors that any request may meet."""
OF_READS: Final[ErrorClasses] = (Unavailable, NotCurrent)
OF_WRITES: Final[ErrorClasses] = (
    Unavailable,
    *Unavailable.__subclasses__(),
    OutcomeUnknown,
    InsufficientStorage,
    MemoryLimit,
    ProtocolError,
)


class Media(NamedTuple):
    """A body of one type. An `example` of None is none."""

    schema: Schema
    example: Any = None


Content = Mapping[str, Media]
"""Bodies by media type."""

BYTES: Final = Media({"type": "string", "format": "binary"})
"""Any bytes at all."""
TEXT: Final = Media({"type": "string"})

GIVEN: Final[Content] = {OCTETS: BYTES, "text/plain": TEXT, ANY: Media({})}
"""A value of any type, to be stored. Types are named since generators of clients leave out a body of which none is;
octets first, which they take if they take but one. JSON is not: of "any JSON" some make a class that cannot be used."""
VALUE: Final[Content] = {OCTETS: BYTES, JSON: Media({}), "text/plain": TEXT, ANY: Media({})}
"""A value of any type, as it was stored."""


class Success(NamedTuple):
    """An answer that is no error."""

    status: int
    description: str
    content: Content | None = None
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A method of a route.

    Attributes:
        route: its label in `kvserver.http.routes`.
        grants: what a token must allow, in Markdown; empty: it is open to everybody.
        parameters: of the query.
        errors: in addition to `ALWAYS` and those of a missing token.
        examples: for a shell, each with an answer that is no error, if run in the order of the whole description.
    """

    route: str
    method: str
    tag: str
    summary: str
    description: str = ""
    grants: str = ""
    parameters: Table = field(default_factory=lambda: NOTHING)
    headers: tuple[Header, ...] = ()
    body: Content | None = None
    answers: tuple[Success, ...]
    errors: ErrorClasses = ()
    examples: tuple[str, ...] = ()

    @property
    def all_errors(self) -> set[type[KVError]]:
        """Every error it may be answered with."""
        return {*ALWAYS, *self.errors, *((Unauthorized, InvalidToken) if self.grants else ())}

    @property
    def has_head(self) -> bool:
        """Whether a HEAD is answered as it would be, without the body."""
        return self.method == "get" and all(answer.status != 101 for answer in self.answers)
