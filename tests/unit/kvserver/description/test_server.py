"""The table of the operations about the server: they change nothing, and their examples are their own."""

from __future__ import annotations

import pytest

from kvserver.description.operations import Operation
from kvserver.description.server import OPERATIONS, TAG
from kvserver.http import routes
from tests.unit.kvserver.description.document import check_examples


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.route)
def test_each_is_a_read_about_the_server(operation: Operation) -> None:
    assert (operation.method, operation.tag, operation.body) == ("get", TAG, None)
    assert operation.has_head
    check_examples(operation)


def test_what_is_open_without_a_token_wants_no_grant() -> None:
    for operation in OPERATIONS:
        assert routes.is_open(operation.route.encode()) == (not operation.grants)
