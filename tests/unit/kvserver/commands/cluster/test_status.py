"""What the machines of a cluster say of each other, compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvserver.commands.cluster.status import mismatches, unasked


def state(node: str | None, store: str = "s", epoch: str = "e", known: Sequence[str] = "abc") -> dict[str, Any]:
    cluster = None if node is None else {"node": node, "nodes": [{"name": name} for name in known]}
    return {"store": store, "epoch": epoch, "cluster": cluster}


def told(*states: dict[str, Any]) -> list[str]:
    return list(mismatches({f"u{number}": each for number, each in enumerate(states)}))


def test_machines_that_belong_together() -> None:
    assert told(state("a"), state("b"), state("c")) == []
    assert told() == told(state(None, "other"), state("a")) == []


def test_machines_that_do_not() -> None:
    assert told(state("a"), state("b"), state("a")) == ["u0 and u2 are both a: name each machine once"]
    assert told(state("a"), state("b", "other", "too")) == ["u0 and u1 are machines of different clusters"]
    assert told(state("a"), state("b", epoch="other")) == ["u0 and u1 have different histories"]


def test_machines_that_were_not_asked() -> None:
    assert unasked([state("a"), state("c")]) == ["b"]
    assert unasked([state("a"), state("b"), state("c")]) == unasked([state(None)]) == unasked([]) == []
