"""Two states of a server as rates."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.commands.operate.figures import branch, member, quantile, rates_between

BOUNDS = [0.001, 0.01, 0.1]
BEFORE: dict[str, Any] = {
    "store": "s",
    "uptime_s": 100.0,
    "shards": [
        {
            "index": 0,
            "state": "up",
            "keys": 10,
            "bytes": 100,
            "operations": {"put": 50, "delete": 0, "expire": 5, "refused": 9},
            "groups": 10,
            "group_operations": 50,
            "flush_s": 1.0,
            "queue": 3,
        }
    ],
    "traffic": {
        "requests": {"1xx": 0, "2xx": 1000, "3xx": 0, "4xx": 10, "5xx": 1},
        "unavailable": 1,
        "outcome_unknown": 0,
        "durations": {"bounds_s": BOUNDS, "counts": [900, 111, 0, 0], "total_s": 1.0},
    },
    "feed": {"deliveries": 7},
}


def later(**changes: Any) -> dict[str, Any]:
    now = copy.deepcopy(BEFORE)
    now["uptime_s"] = 102.0
    now["traffic"]["requests"]["2xx"] += 198
    now["traffic"]["requests"]["5xx"] += 2
    now["traffic"]["unavailable"] += 2
    now["traffic"]["durations"]["counts"] = [1000, 211, 0, 0]
    now["shards"][0]["operations"] = {"put": 90, "delete": 20, "expire": 7, "refused": 100}
    now["shards"][0] |= {"groups": 14, "group_operations": 90, "flush_s": 1.004, "keys": 20}
    now["feed"]["deliveries"] = 27
    return now | changes


def test_rates_are_of_the_time_between() -> None:
    rates = rates_between(BEFORE, later())
    assert (rates.seconds, rates.requests, rates.unavailable, rates.deliveries) == (2.0, 100.0, 1.0, 10.0)
    assert rates.shares == pytest.approx({"2xx": 0.99, "3xx": 0.0, "4xx": 0.0, "5xx": 0.01})
    assert rates.changes == 31.0 and rates.by_kind["delete"] == 10.0
    assert rates.median_s == pytest.approx(0.001) and rates.p99_s == pytest.approx(0.001 + 0.98 * 0.009)
    (shard,) = rates.shards
    assert (shard.keys, shard.operations, shard.group, shard.queue) == (20, 31.0, 10.0, 3)
    assert shard.flush_s == pytest.approx(0.001)


def test_nothing_happened() -> None:
    rates = rates_between(BEFORE, BEFORE)
    assert (rates.requests, rates.changes, rates.median_s) == (0.0, 0.0, None)
    assert rates.shards[0].flush_s == 0.0


@pytest.mark.parametrize("change", [{"uptime_s": 4.0}, {"store": "another"}])
def test_a_server_that_was_started_again_begins_anew(change: dict[str, Any]) -> None:
    now = later(**change)
    assert rates_between(BEFORE, now).requests == pytest.approx(1211 / now["uptime_s"])


def test_an_older_server_tells_less() -> None:
    rates = rates_between({"uptime_s": 1.0}, {"uptime_s": 2.0, "shards": [{"index": 0, "state": "up", "keys": 5}]})
    assert (rates.requests, rates.shards[0].keys, rates.p99_s) == (0.0, 5, None)


def test_members_that_are_not_there_or_no_numbers() -> None:
    document = {"a": {"b": 5}, "c": "x", "d": None, "e": True, "f": float("nan")}
    assert member(document, "a", "b") == 5
    assert [
        member(document, *path) for path in (("a", "x"), ("x", "y"), ("c",), ("d",), ("e",), ("f",), ("c", "b"))
    ] == [0] * 7
    assert branch(document, "c") == {}


@given(st.lists(st.integers(0, 100), min_size=4, max_size=4), st.floats(0.01, 1.0))
def test_a_quantile_lies_in_its_bucket(counts: list[int], share: float) -> None:
    found = quantile(BOUNDS, counts, share)
    if not sum(counts):
        assert found is None
        return
    assert found is not None
    wanted, index = share * sum(counts), 0
    while sum(counts[: index + 1]) < wanted:
        index += 1
    low = 0.0 if index == 0 else BOUNDS[index - 1]
    assert low <= found <= (BOUNDS[index] if index < 3 else BOUNDS[-1]) + 1e-12
