"""Which requests have a body that is read, and how much of it is taken. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from kvserver.http import routes
from shards.wire.errors import BadKey, KVError, ValueTooLarge

TICKET: Final = 128 << 10
"""Most bytes of a request for a ticket."""

_STORED: Final = frozenset(
    ((routes.KEY, "PUT"), (routes.KV, "PUT"), (routes.KV, "PATCH"), (routes.BATCH, "POST"), (routes.TICKETS, "POST"))
)
_NOTICED: Final = frozenset(((routes.KV, "POST"), (routes.KV, "DELETE"), (routes.MANY, "DELETE")))
READ: Final = _STORED | _NOTICED
"""Routes and methods whose responders read the body. They first check what the head alone decides, and change nothing
before they have read it: so they can be run to find whether they refuse a request whose body is still to come."""


class LargeBatch(ValueTooLarge):
    """The body of a batch is larger than batches may be."""

    hint = "Send a smaller batch, or raise --max-batch."


class NoBody(ValueTooLarge):
    """A request has a body that no responder reads."""

    hint = "Send the request without a body."

    def __init__(self) -> None:
        super().__init__("this request takes no body")


class BodyAllowance(NamedTuple):
    """How much of a body is taken.

    Attributes:
        most: bytes that it may have.
        kept: bytes of its beginning that are kept for the responder; the rest is dropped as it arrives.
        too_large: the refusal of a larger one.
        forbidden: a body that is still to come is refused, whatever its size.
    """

    most: int
    kept: int
    too_large: type[KVError] = ValueTooLarge
    forbidden: bool = False


def find_allowance(method: str, path: bytes, max_value: int, max_batch: int) -> BodyAllowance:
    """Find which body may follow a head of `method` for `path` (as sent).

    The responder gets the first byte of a body that is not stored, so that it can refuse it; the client may send up to
    `max_value` bytes. OPTIONS, and paths that are open without a token (`routes.is_open`), cannot make the server wait
    for a body.
    """
    if method == "OPTIONS" or routes.is_open(path):
        return BodyAllowance(max_value, 0, NoBody, True)
    try:
        asked = routes.resolve_path(path).route, method
    except BadKey:
        return BodyAllowance(max_value, 0)
    if asked == (routes.BATCH, "POST"):
        return BodyAllowance(max_batch, max_batch, LargeBatch)
    if asked == (routes.TICKETS, "POST"):
        most = min(TICKET, max_value)
        return BodyAllowance(most, most)
    if asked in _STORED:
        return BodyAllowance(max_value, max_value)
    return BodyAllowance(max_value, 1)
