"""Figures of answered requests, for Prometheus and for the board.

The hot code adds whole numbers to a list; a few times a second they are moved into prometheus_client's files, which
the supervisor renders, and added up for the process's row of the board, which `/v1/status` shows. Names and labels are
MemoryKV's, without its label `uri` (a series for every key), and so are the buckets from 5 ms on; most answers here
take less.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from shards.host.board import DURATION_BOUNDS_S, TRAFFIC

_FIRST: Final = DURATION_BOUNDS_S[0]
_SINGLED_OUT: Final = (503, 504)

_LABELS: Final = ("method", "path", "status")
_OTHER_METHOD: Final = "other"
_METHODS: Final = frozenset(("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", _OTHER_METHOD))


class Counts:
    """Requests by method, route and status, and their durations in seconds.

    Attributes:
        requests: answered since the process began.
        overloads: those of them that were refused because too much was going on.
        figures: a count for each name in `TRAFFIC`, as of the last flush.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._requests = Counter("http_requests_total", "Requests answered.", _LABELS, registry=registry)
        self._durations = Histogram(
            "http_requests_duration_seconds",
            "Time from the request's arrival to the end of its answer.",
            _LABELS,
            buckets=DURATION_BOUNDS_S,
            registry=registry,
        )
        self._counted: dict[tuple[str, str, int], list[int]] = {}
        self._seconds: dict[tuple[str, str, int], float] = {}
        self.requests = 0
        self.overloads = 0
        self.figures = dict.fromkeys(TRAFFIC, 0)

    def add(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        key = (method, route, status)
        buckets = self._counted.get(key)
        if buckets is None:
            if method not in _METHODS:
                self.add(_OTHER_METHOD, route, status, seconds)
                return
            buckets = self._add_series(key)
        buckets[0 if seconds <= _FIRST else bisect_left(DURATION_BOUNDS_S, seconds)] += 1
        self._seconds[key] += seconds
        self.requests += 1

    def _add_series(self, key: tuple[str, str, int]) -> list[int]:
        self._counted[key] = [0] * (len(DURATION_BOUNDS_S) + 1)
        self._seconds[key] = 0.0
        return self._counted[key]

    def flush(self) -> None:
        """Move what was counted since the last flush into the registry, and add it to `figures`."""
        for (method, route, status), buckets in self._counted.items():
            total = sum(buckets)
            if not total:
                continue
            labels = (method, route, str(status))
            self._requests.labels(*labels).inc(total)
            # Histogram has no call for many observations at once; one call for each would cost more than the request.
            histogram = self._durations.labels(*labels)
            histogram._sum.inc(self._seconds[method, route, status])
            for bucket, count in zip(histogram._buckets, buckets, strict=True):
                if count:
                    bucket.inc(count)
            self._add_figures(status, total, buckets, self._seconds[method, route, status])
            buckets[:] = [0] * len(buckets)
            self._seconds[method, route, status] = 0.0

    def _add_figures(self, status: int, total: int, buckets: Sequence[int], seconds: float) -> None:
        self.figures[f"answers_{status // 100}xx"] += total
        if status in _SINGLED_OUT:
            self.figures[f"answers_{status}"] += total
        self.figures["took_us"] += round(seconds * 1e6)
        for bucket, count in enumerate(buckets):
            self.figures[f"took_{bucket}"] += count
