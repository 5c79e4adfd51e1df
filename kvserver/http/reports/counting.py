"""Figures of answered requests, for Prometheus.

The hot code adds whole numbers to a list; a few times a second they are moved into prometheus_client's files, which
the supervisor renders. Names, labels and buckets are MemoryKV's, without its label `uri` (a series for every key).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_FIRST: Final = BUCKETS[0]

_LABELS: Final = ("method", "path", "status")
_OTHER_METHOD: Final = "other"
_METHODS: Final = frozenset(("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", _OTHER_METHOD))


class Counts:
    """Requests by method, route and status, and their durations in seconds."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._requests = Counter("http_requests_total", "Requests answered.", _LABELS, registry=registry)
        self._durations = Histogram(
            "http_requests_duration_seconds",
            "Time from the request's arrival to the end of its answer.",
            _LABELS,
            buckets=BUCKETS,
            registry=registry,
        )
        self._counted: dict[tuple[str, str, int], list[int]] = {}
        self._seconds: dict[tuple[str, str, int], float] = {}
        self.requests = 0
        self.overloads = 0

    def add(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        key = (method, route, status)
        buckets = self._counted.get(key)
        if buckets is None:
            if method not in _METHODS:
                self.add(_OTHER_METHOD, route, status, seconds)
                return
            buckets = self._add_series(key)
        buckets[0 if seconds <= _FIRST else bisect_left(BUCKETS, seconds)] += 1
        self._seconds[key] += seconds
        self.requests += 1

    def _add_series(self, key: tuple[str, str, int]) -> list[int]:
        self._counted[key] = [0] * (len(BUCKETS) + 1)
        self._seconds[key] = 0.0
        return self._counted[key]

    def flush(self) -> None:
        """Move the figures since the last flush into the registry."""
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
            buckets[:] = [0] * len(buckets)
            self._seconds[method, route, status] = 0.0
