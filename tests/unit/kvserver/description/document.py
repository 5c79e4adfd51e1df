"""The document that tests look into, and ways through it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kvserver.description import openapi
from kvserver.description.operations import EXAMPLE_URL, Operation
from kvserver.http import routes

DOCUMENT = openapi.make_document()


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, described in methods.items():
            yield path, method, described


def inside(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in `value`."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from inside(each)
    elif isinstance(value, list):
        for each in value:
            yield from inside(each)


def resolved(reference: str) -> Any:
    found: Any = DOCUMENT
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return found


def check_examples(operation: Operation) -> None:
    """Fail unless the examples of `operation` are requests of it."""
    for example in operation.examples:
        url = re.search(rf"{re.escape(EXAMPLE_URL)}([^ ']*)", example)
        assert url is not None
        path = url[1].partition("?")[0]
        assert routes.resolve_path(path.encode()).route == operation.route
        method = re.search(r"-X ([A-Z]+)", example)
        implied = "POST" if " -d " in example else "GET"
        assert (method[1] if method else implied) == operation.method.upper()
