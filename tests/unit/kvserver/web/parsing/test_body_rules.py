"""How much of a body is taken, by method and path."""

from __future__ import annotations

import pytest

from kvserver.http import routes
from kvserver.web.parsing.body_rules import READ, TICKET, BodyAllowance, LargeBatch, NoBody, find_allowance
from shards.wire.errors import ValueTooLarge

VALUE, BATCH = 1 << 20, 1 << 22


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("PUT", b"/k", BodyAllowance(VALUE, VALUE)),
        ("PUT", b"/v1/kv/k", BodyAllowance(VALUE, VALUE)),
        ("PATCH", b"/v1/kv/k", BodyAllowance(VALUE, VALUE)),
        ("POST", b"/v1/batch", BodyAllowance(BATCH, BATCH, LargeBatch)),
        ("POST", b"/v1/tickets", BodyAllowance(TICKET, TICKET)),
        ("DELETE", b"/v1/kv/k", BodyAllowance(VALUE, 1)),
        ("GET", b"/k", BodyAllowance(VALUE, 1)),
        ("PUT", b"/v1/kv/%zz", BodyAllowance(VALUE, 0)),
        ("OPTIONS", b"/k", BodyAllowance(VALUE, 0, NoBody, True)),
        ("GET", b"/health/live", BodyAllowance(VALUE, 0, NoBody, True)),
    ],
)
def test_what_of_a_body_is_taken(method: str, path: bytes, expected: BodyAllowance) -> None:
    assert find_allowance(method, path, VALUE, BATCH) == expected


def test_a_ticket_is_no_larger_than_a_value() -> None:
    assert find_allowance("POST", b"/v1/tickets", 100, BATCH).most == 100


def test_stored_bodies_are_read() -> None:
    for route, method in READ:
        assert route in routes.LABELS and method in ("PUT", "PATCH", "POST", "DELETE")
    assert (routes.KEY, "PUT") in READ and (routes.KEY, "DELETE") not in READ


def test_no_body_is_too_large_a_value_to_clients() -> None:
    assert isinstance(NoBody(), ValueTooLarge) and "takes no body" in str(NoBody())
