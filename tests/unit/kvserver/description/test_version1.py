"""The table of version 1's operations: routes, methods and examples belong together."""

from __future__ import annotations

import pytest

from kvserver.description.openapi import path_template
from kvserver.description.operations import Operation
from kvserver.description.version1 import OPERATIONS
from kvserver.http import routes
from tests.unit.kvserver.description.document import check_examples


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: f"{each.method} {each.route}")
def test_examples_are_requests_of_their_operation(operation: Operation) -> None:
    check_examples(operation)


def test_no_operation_is_described_twice() -> None:
    described = [(operation.route, operation.method) for operation in OPERATIONS]
    assert len(set(described)) == len(described)
    assert all(path_template(route).startswith("/") for route, _ in described)


def test_writes_need_the_right_to_write() -> None:
    for operation in OPERATIONS:
        if operation.route in (routes.KV, routes.MANY) and operation.method != "get":
            assert operation.grants.startswith("`write`")
