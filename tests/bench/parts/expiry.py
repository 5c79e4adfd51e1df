"""Expiry: how late the feed tells that a key is gone, in a store where a million others have an expiry too."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime

from shards.host.board import Board
from tests.bench import client
from tests.bench.contenders import KVServer
from tests.bench.measure import Findings, Round, Target, latencies
from tests.bench.parts import Bench

EVENT_MS = 100.0
"""How late an event may be."""
_FAR_S = 30 * 86400
_STEADY_S, _STEADY_EACH_S = 6.0, 500
_BURST = 5000
_AHEAD_S = 1.5
_TOGETHER = 50
_PATIENCE_S = 30.0
_DUE = re.compile(rb"Delete \{ key: due/(\d+)/\d+ \}")

Schedule = list[tuple[float, list[float]]]
"""When to put keys, and when each of them is due, in seconds."""


def expiry(bench: Bench) -> Findings:
    """A steady stream of keys that fall due, and many that fall due at one moment."""
    findings = Findings()
    with ExitStack() as stack:
        ours = stack.enter_context(KVServer(bench.directory))
        board = Board.open(ours.server.run_dir / "board")
        stack.callback(board.close)
        bench.say(f"filling {bench.keys} keys with an expiry far away")
        far = ({"op": "put", "key": f"far/{n:08d}", "value": b"v", "ttl": _FAR_S} for n in range(bench.keys))
        client.fill(ours.port, far, 5000)
        target = {("kvserver", metric): Target("at most", EVENT_MS) for metric in ("p99 ms", "max ms")}
        cases = {f"{_STEADY_EACH_S} due each second": _steady, f"{_BURST} due at once": _burst}
        for case, schedule in cases.items():
            bench.say(case)
            results = [_measure(ours.port, board, schedule()) for _ in range(bench.rounds)]
            findings.add(case, {"kvserver": results}, target)
    return findings


def _steady() -> Schedule:
    """Spread over the time."""
    ats = [number * _TOGETHER / _STEADY_EACH_S for number in range(int(_STEADY_S * _STEADY_EACH_S / _TOGETHER))]
    return [(at, [at + _AHEAD_S + index / _STEADY_EACH_S for index in range(_TOGETHER)]) for at in ats]


def _burst() -> Schedule:
    return [(0.0, [_AHEAD_S] * _BURST)]


def _measure(port: int, board: Board, schedule: Schedule) -> Round:
    """Put what `schedule` says; how late the feed was with each key, and the most that the shards admit."""
    total = sum(len(due) for _, due in schedule)
    feed = client.lines_of_wal(port, _PATIENCE_S)
    next(feed)
    with contextlib.closing(feed), ThreadPoolExecutor(2) as threads:
        late = threads.submit(_lateness, feed, total)
        lag = threads.submit(_most_lag, board, late)
        begun = time.time()
        for at, due in schedule:
            time.sleep(max(begun + at - time.time(), 0))
            client.fill(port, [_put(begun + seconds, index) for index, seconds in enumerate(due)], 5000)
        return {**latencies(late.result()), "board's lag ms": lag.result()}


def _put(due_s: float, index: int) -> client.Operation:
    due_ms = int(due_s * 1000)
    text = datetime.fromtimestamp(due_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"op": "put", "key": f"due/{due_ms}/{index}", "value": b"v", "expires": text}


def _lateness(feed: Iterator[bytes], count: int) -> list[float]:
    """Seconds from the time in its key until the feed tells that it is gone, for the next `count` keys."""
    late: list[float] = []
    data = b""
    while len(late) < count:
        data += next(feed)
        now, end = time.time(), 0
        for line in _DUE.finditer(data):
            late.append(now - int(line[1]) / 1000)
            end = line.end()
        data = data[end:]
    return late


def _most_lag(board: Board, late: Future[list[float]]) -> float:
    most = 0
    while not late.done():
        most = max(most, *(row.read_figures()["expiry_lag_ms"] for row in board.shards))
        time.sleep(0.01)
    return float(most)
