"""The table of the operations at the root: their errors are told as MemoryKV does."""

from __future__ import annotations

import re

import pytest

from kvserver.description.memorykv import OPERATIONS, TAG
from kvserver.description.operations import EXAMPLE_URL, Operation
from kvserver.http import routes
from kvserver.http.responses import uses_problems


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: f"{each.method} {each.route}")
def test_they_are_at_the_root(operation: Operation) -> None:
    assert operation.tag == TAG
    assert not operation.route.startswith("/v1/")
    assert not uses_problems(operation.route.encode())
    assert not operation.parameters, "queries are ignored there"


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: f"{each.method} {each.route}")
def test_examples_are_requests_of_their_operation(operation: Operation) -> None:
    for example in operation.examples:
        url = re.search(rf"{re.escape(EXAMPLE_URL)}(\S*)", example)
        assert url is not None
        assert routes.resolve_path(url[1].encode()).route == operation.route


def test_each_method_of_a_key_is_described() -> None:
    methods = {operation.method for operation in OPERATIONS if operation.route == routes.KEY}
    assert methods == {"get", "put", "delete"}
