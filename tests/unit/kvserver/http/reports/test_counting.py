"""Counts reach Prometheus whole, under MemoryKV's names."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from kvserver.http.reports.counting import BUCKETS, Counts


def test_what_is_counted_is_rendered() -> None:
    registry = CollectorRegistry()
    counts = Counts(registry)
    for seconds in (0.001, 0.005, 0.006, 20.0):
        counts.add("GET", "/:key", 200, seconds)
    counts.flush()
    counts.add("GET", "/:key", 200, 0.2)
    counts.add("BREW", "other", 400, 0.0)
    counts.add("MKCOL", "other", 400, 0.0)
    for _ in range(2):  # what was flushed is not counted again
        counts.flush()
    text = generate_latest(registry).decode()
    labels = 'method="GET",path="/:key",status="200"'
    assert f"http_requests_total{{{labels}}} 5.0" in text
    assert 'http_requests_total{method="other",path="other",status="400"} 2.0' in text
    assert f"http_requests_duration_seconds_count{{{labels}}} 5.0" in text
    assert f"http_requests_duration_seconds_sum{{{labels}}} 20.212" in text
    cumulated = dict.fromkeys(BUCKETS, 3.0) | {0.005: 2.0} | dict.fromkeys((0.25, 0.5, 1.0, 2.5, 5.0, 10.0), 4.0)
    for bound, count in cumulated.items():
        assert f'http_requests_duration_seconds_bucket{{le="{bound}",{labels}}} {count}' in text
    assert f'http_requests_duration_seconds_bucket{{le="+Inf",{labels}}} 5.0' in text
    assert counts.requests == 7
