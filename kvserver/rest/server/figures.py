"""Growing counters of the whole server, as JSON objects: what a dashboard makes rates of.

All of it is on the board, in rows of the living and the dead, so no counter falls while the server runs. `/metrics`
shows the same figures, of each process and in more detail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from shards.host.board import ANSWER_CLASSES, DURATION_BOUNDS_S, Board, ProcessRow, ShardRow


def describe_traffic(board: Board) -> dict[str, Any]:
    """Return answered requests by class, and how long they took; `counts` has one bucket more than `bounds_s`."""
    total = _sum_figures(chain(board.workers.used_rows(), board.gateways.used_rows()))
    return {
        "requests": {name: total[f"answers_{name}"] for name in ANSWER_CLASSES},
        "unavailable": total["answers_503"],
        "outcome_unknown": total["answers_504"],
        "durations": {
            "bounds_s": DURATION_BOUNDS_S,
            "counts": [total[f"took_{bucket}"] for bucket in range(len(DURATION_BOUNDS_S) + 1)],
            "total_s": total["took_us"] / 1e6,
        },
    }


def describe_feed(board: Board) -> dict[str, int]:
    """Return what all gateways have shown, and the changes that the slowest of them has not shown yet."""
    total = _sum_figures(board.gateways.used_rows())
    watermark = board.watermark()[1]
    lag = max((row.count_lag(watermark) for _, row in board.gateways.living_rows()), default=0)
    return {"events": total["events"], "deliveries": total["deliveries"], "gaps": total["gaps"], "lag": lag}


def describe_work(figures: Mapping[str, int]) -> dict[str, Any]:
    """Return what a shard has done, of its `figures`: changes by kind, groups, and seconds that its flushes took."""
    return {
        "operations": {kind: figures[name] for name, kind in ShardRow.KINDS.items()},
        "groups": figures["groups"],
        "group_operations": figures["operations"],
        "flush_s": figures["flush_ns"] / 1e9,
        "queue": figures["queue"],
    }


def _sum_figures(rows: Iterable[tuple[int, ProcessRow]]) -> Counter[str]:
    total = Counter[str]()
    for _, row in rows:
        total.update(row.read_figures())
    return total
