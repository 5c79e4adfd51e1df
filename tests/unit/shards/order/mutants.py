"""Leaves one rule out of a module: the source of one function with a fragment replaced, for as long as a test lasts."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest


class Mutant(NamedTuple):
    """A function of `owner`, and which fragment of its source becomes what."""

    name: str
    owner: type
    function: str
    fragment: str
    becomes: str


def apply(mutant: Mutant, patch: pytest.MonkeyPatch) -> None:
    """Put the mutant into effect until `patch` is undone."""
    original: Any = inspect.getattr_static(mutant.owner, mutant.function)
    function: Callable[..., Any] = original.fget if isinstance(original, property) else original
    source = textwrap.dedent(inspect.getsource(function)).removeprefix("@property\n")
    assert source.count(mutant.fragment) == 1, f"{mutant.name}: the source has changed"
    scope: dict[str, Any] = dict(vars(sys.modules[mutant.owner.__module__]))
    exec("from __future__ import annotations\n" + source.replace(mutant.fragment, mutant.becomes), scope)
    changed = scope[mutant.function]
    patch.setattr(mutant.owner, mutant.function, property(changed) if isinstance(original, property) else changed)
