"""The state of a server in words."""

from __future__ import annotations

from typing import Any

import pytest

from kvserver.commands.cluster.status import machine_row
from kvserver.commands.operate.status import problems_of, status_rows
from tests.unit.kvserver.commands.operate.test_screen import state


def test_all_is_well() -> None:
    rows = dict(status_rows(state()))
    assert rows["keys"] == "20 keys, 812.0 MiB of 1.0 GiB (evict)"
    assert rows["shards"] == "0 up" and rows["gateways"] == "312 feed clients"
    assert list(problems_of(state())) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workers": []}, "no web worker is up"),
        ({"gateways": []}, "no gateway is up: there is no feed"),
        ({"log": {"full": True}}, "the disk is full: writes are refused"),
        ({"log": {"broken": True}}, "the log is broken: the server is about to end"),
        ({"clock": {"ahead_s": 3600.0}}, "the history is ahead of the clock by 60 min"),
        ({"shards": [{"index": 3, "state": "given_up"}]}, "shard 3 is given_up"),
    ],
)
def test_problems(changes: dict[str, Any], words: str) -> None:
    assert list(problems_of(state(**changes))) == [words]


def test_a_server_that_tells_nothing_is_shown_all_the_same() -> None:
    assert dict(status_rows({}))["keys"] == "0 keys, 0 B"


BEHIND = {"sequence": 100, "last": 1300, "lag": 1200}


def cluster(**changes: Any) -> dict[str, Any]:
    nodes = [{"name": name, "member": True, "reachable": True} for name in "abc"]
    order = {"sequence": 7, "last": 7, "lag": 0, "stable": 7}
    made = {"node": "a", "member": True, "current": True, "nodes": nodes, "order": order, "clock_difference_s": 0.1}
    return {"cluster": made | changes}


def test_a_cluster_that_is_whole() -> None:
    assert dict(status_rows(state(**cluster())))["cluster"] == "a of a b c"
    assert list(problems_of(state(**cluster()))) == []


def test_a_machine_that_has_stopped_says_why_and_nothing_of_the_others() -> None:
    changed = state(**cluster(stopped="the engine has no stream KV", current=False, member=False))
    assert list(problems_of(changed)) == ["this machine has stopped: the engine has no stream KV"]


def test_a_cluster_that_is_not() -> None:
    nodes = [
        {"name": "a", "member": True, "reachable": True},
        {"name": "b", "member": False, "reachable": False},
        {"name": "c", "member": True, "reachable": False},
    ]
    changed = state(**cluster(nodes=nodes, current=False, clock_difference_s=1.5, order=BEHIND))
    assert dict(status_rows(changed))["cluster"] == "a of a c (b out), at message 100 of 1,300, 1,200 behind"
    assert list(problems_of(changed)) == [
        "this machine has not heard of most of its cluster for a second: it answers 503",
        "machine b is out of the cluster",
        "machine c does not answer",
        "the clocks of the machines differ by 1.5 s: set them by NTP",
    ]
    (words,) = problems_of(state(**cluster(member=False, order=BEHIND)))
    assert words.startswith("this machine is not a member") and words.endswith("is at message 100 of 1,300")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ["a", "current", "a b c", "7", "0"]),
        ({"current": False}, ["a", "member", "a b c", "7", "0"]),
        ({"current": False, "member": False}, ["a", "out", "a b c", "7", "0"]),
        (
            {"current": False, "member": False, "order": {"sequence": 100, "last": 1300, "lag": 1200}},
            ["a", "catching up", "a b c", "100 of 1,300", "1200"],
        ),
    ],
)
def test_what_a_machine_of_a_cluster_is_at(changes: dict[str, Any], words: list[str]) -> None:
    node, url, *others, _ = machine_row("http://a", state(**cluster(**changes)))
    assert (url, [node, *others]) == ("http://a", words)
