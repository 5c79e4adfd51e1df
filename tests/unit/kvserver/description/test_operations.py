"""What a row of the tables of operations says beyond its fields."""

from __future__ import annotations

from typing import Any

import pytest

from kvserver.description.operations import ALWAYS, OF_WRITES, Operation, Success
from shards.wire.errors import DeadlinePassed, InvalidToken, NotFound, StaleIncarnation, Unauthorized, Unavailable


def operation(**fields: Any) -> Operation:
    fields = {"route": "/x", "method": "get", "tag": "t", "summary": "s", "answers": (Success(200, "It."),), **fields}
    return Operation(**fields)


def test_errors_are_those_of_every_request_and_its_own() -> None:
    assert operation(errors=(NotFound,)).all_errors == {*ALWAYS, NotFound}
    assert operation(grants="`read`").all_errors == {*ALWAYS, Unauthorized, InvalidToken}


def test_writes_meet_every_kind_of_absent_shard() -> None:
    assert {Unavailable, DeadlinePassed, StaleIncarnation} <= set(OF_WRITES)


@pytest.mark.parametrize(
    ("method", "status", "has_head"), [("get", 200, True), ("get", 101, False), ("put", 200, False)]
)
def test_head_follows_get_unless_the_connection_changes(method: str, status: int, has_head: bool) -> None:
    assert operation(method=method, answers=(Success(status, "It."),)).has_head is has_head
