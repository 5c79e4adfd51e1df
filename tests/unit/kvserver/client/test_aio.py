"""Both clients have the same methods, with the same parameters and the same results."""

from __future__ import annotations

import inspect
import re

import pytest

from kvserver.client.aio import AsyncClient
from kvserver.client.atomics import AsyncAtomic, Atomic
from kvserver.client.scans import AsyncScan, Scan
from kvserver.client.sync import Client

PAIRS = [(Client, AsyncClient), (Scan, AsyncScan), (Atomic, AsyncAtomic)]


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def told(cls: type, name: str) -> str:
    """The signature of a method, in the words of the synchronous one."""
    text = str(inspect.signature(inspect.unwrap(inspect.getattr_static(cls, name))))
    for asynchronous, synchronous in (
        (r"AsyncIterator\[", "Iterator["),
        (r"Async(?=[A-Z])", ""),
        (r"(?:Awaitable|Coroutine)\[(?:Any, Any, )?(\w+)\]", r"\1"),
        (r"str \| str", "str"),
    ):
        text = re.sub(asynchronous, synchronous, text)
    return text


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].__name__)
def test_the_same_names(pair: tuple[type, type]) -> None:
    assert public(pair[0]) == public(pair[1])


METHODS = [
    (pair, name)
    for pair in PAIRS
    for name in sorted(public(pair[0]) | {"__init__"})
    if callable(inspect.getattr_static(pair[0], name))
]


@pytest.mark.parametrize(("pair", "name"), METHODS, ids=[f"{pair[0].__name__}.{name}" for pair, name in METHODS])
def test_the_same_parameters_and_results(pair: tuple[type, type], name: str) -> None:
    if pair[0] is Client or name != "__init__":  # the others are made by their client
        assert told(pair[0], name) == told(pair[1], name)


@pytest.mark.parametrize(("pair", "name"), METHODS, ids=[f"{pair[0].__name__}.{name}" for pair, name in METHODS])
def test_every_method_says_what_it_does(pair: tuple[type, type], name: str) -> None:
    if name != "__init__":
        for cls in pair:
            assert inspect.getattr_static(cls, name).__doc__
