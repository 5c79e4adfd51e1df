"""Two states of a server as rates, and what else people want to see of it. Pure.

A state is the document of GET /v1/status. What an older server does not tell counts as zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

CLASSES: Final = ("2xx", "3xx", "4xx", "5xx")
CHANGES: Final = ("put", "delete", "touch", "expire", "evict")
"""Kinds of operations of a shard that change something."""


@dataclass(frozen=True)
class ShardRates:
    """What a shard holds and does. Rates are a second; `flush_s` is the mean of a group's flush."""

    index: int
    state: str
    keys: int
    size: int
    operations: float
    group: float
    flush_s: float
    queue: int


@dataclass(frozen=True)
class Rates:
    """What a server did between two states. Rates are a second; latencies are in seconds, None without requests."""

    seconds: float
    requests: float
    shares: Mapping[str, float]
    unavailable: float
    unknown: float
    median_s: float | None
    p99_s: float | None
    changes: float
    by_kind: Mapping[str, float]
    shards: Sequence[ShardRates]
    deliveries: float


def rates_between(before: Mapping[str, Any], now: Mapping[str, Any]) -> Rates:
    """Return the rates between two states of one run of a server; of two runs, those since the start of the second.

    The time between them is the server's own.
    """
    if member(now, "uptime_s") < member(before, "uptime_s") or now.get("store") != before.get("store"):
        before = {}
    seconds = max(1e-3, member(now, "uptime_s") - member(before, "uptime_s"))
    requests = {name: _grown(before, now, "traffic", "requests", name) for name in CLASSES}
    total = sum(requests.values())
    counts = _grown_buckets(before, now)
    bounds = branch(now, "traffic", "durations").get("bounds_s", [])
    old = {shard.get("index"): shard for shard in before.get("shards", [])}
    shards = [_shard_rates(old.get(shard.get("index"), {}), shard, seconds) for shard in now.get("shards", [])]
    kinds = {kind: _sum_grown(old, now, kind) / seconds for kind in CHANGES}
    return Rates(
        seconds,
        total / seconds,
        {name: count / total if total else 0.0 for name, count in requests.items()},
        _grown(before, now, "traffic", "unavailable") / seconds,
        _grown(before, now, "traffic", "outcome_unknown") / seconds,
        quantile(bounds, counts, 0.5),
        quantile(bounds, counts, 0.99),
        sum(kinds.values()),
        kinds,
        shards,
        _grown(before, now, "feed", "deliveries") / seconds,
    )


def quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float | None:
    """Return about the duration that `share` of requests did not exceed; None if there were none.

    It lies within its bucket as if durations were spread evenly there; beyond the last bound it is that bound.
    """
    total = sum(counts)
    if total <= 0 or not bounds:
        return None
    wanted, below = share * total, 0.0
    for index, count in enumerate(counts):
        if count and below + count >= wanted:
            low = bounds[index - 1] if index else 0.0
            high = bounds[index] if index < len(bounds) else bounds[-1]
            return low + (high - low) * max(0.0, wanted - below) / count if high > low else high
        below += count
    return bounds[-1]


def member(document: Mapping[str, Any], *path: str) -> float:
    """Return a number of a document; 0 if it is not there."""
    value: Any = branch(document, *path[:-1]).get(path[-1])
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else 0


def branch(document: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """Return an object within a document; empty if it is not there."""
    for name in path:
        found = document.get(name)
        document = found if isinstance(found, Mapping) else {}
    return document


def _grown(before: Mapping[str, Any], now: Mapping[str, Any], *path: str) -> float:
    return max(0.0, member(now, *path) - member(before, *path))


def _grown_buckets(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[float]:
    old = branch(before, "traffic", "durations").get("counts", [])
    new = branch(now, "traffic", "durations").get("counts", [])
    return [max(0.0, count - (old[index] if index < len(old) else 0)) for index, count in enumerate(new)]


def _sum_grown(old: Mapping[Any, Mapping[str, Any]], now: Mapping[str, Any], kind: str) -> float:
    return sum(_grown(old.get(shard.get("index"), {}), shard, "operations", kind) for shard in now.get("shards", []))


def _shard_rates(before: Mapping[str, Any], now: Mapping[str, Any], seconds: float) -> ShardRates:
    groups = _grown(before, now, "groups")
    return ShardRates(
        index=int(member(now, "index")),
        state=str(now.get("state", "?")),
        keys=int(member(now, "keys")),
        size=int(member(now, "bytes")),
        operations=sum(_grown(before, now, "operations", kind) for kind in CHANGES) / seconds,
        group=_grown(before, now, "group_operations") / groups if groups else 0.0,
        flush_s=_grown(before, now, "flush_s") / groups if groups else 0.0,
        queue=int(member(now, "queue")),
    )
