"""What threads and what tasks use has the same methods, with the same arguments."""

from __future__ import annotations

import inspect
import typing

import pytest

from kvserver.client.live.election import AsyncElection, Election
from kvserver.client.live.lease import AsyncLease, Lease
from kvserver.client.live.lock import AsyncLock, AsyncLoss, Lock, Loss
from kvserver.client.live.mirror import AsyncMirror, Mirror
from kvserver.client.live.watch import AsyncWatch, Watch

PAIRS = [
    (Watch, AsyncWatch),
    (Mirror, AsyncMirror),
    (Lock, AsyncLock),
    (Loss, AsyncLoss),
    (Lease, AsyncLease),
    (Election, AsyncElection),
]


@pytest.mark.parametrize(("of_threads", "of_tasks"), PAIRS)
def test_the_methods_are_the_same(of_threads: type[typing.Any], of_tasks: type[typing.Any]) -> None:
    def described(cls: type[typing.Any]) -> dict[str, list[tuple[str, typing.Any, typing.Any]] | str]:
        found: dict[str, list[tuple[str, typing.Any, typing.Any]] | str] = {}
        for name in dir(cls):
            if name.startswith("_"):
                continue
            member = inspect.getattr_static(cls, name)
            if inspect.isfunction(member):
                parameters = inspect.signature(member).parameters.values()
                found[name] = [(each.name, each.kind, each.default) for each in parameters]
            else:
                found[name] = type(member).__name__
        return found

    assert described(of_threads) == described(of_tasks)
    assert all(inspect.getdoc(getattr(of_tasks, name)) for name in described(of_tasks))
