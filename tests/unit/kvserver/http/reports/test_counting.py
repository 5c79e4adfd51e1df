"""Counts reach Prometheus whole, under MemoryKV's names."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from kvserver.http.reports.counting import Counts
from shards.host.board import DURATION_BOUNDS_S, TRAFFIC, GatewayRow, WorkerRow
from shards.host.board_words import ROW_WORDS


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
    for bound in DURATION_BOUNDS_S:
        count = float(sum(seconds <= bound for seconds in (0.001, 0.005, 0.006, 20.0, 0.2)))
        assert f'http_requests_duration_seconds_bucket{{le="{bound}",{labels}}} {count}' in text
    assert f'http_requests_duration_seconds_bucket{{le="+Inf",{labels}}} 5.0' in text
    assert counts.requests == 7


def test_what_is_counted_is_added_up_for_the_board() -> None:
    counts = Counts(CollectorRegistry())
    assert counts.figures == dict.fromkeys(TRAFFIC, 0)
    for method, status, seconds in (
        ("GET", 200, 0.0001),
        ("PUT", 204, 0.00011),
        ("GET", 101, 0.0),
        ("GET", 302, 10.0),
        ("BREW", 405, 10.5),
        ("GET", 499, 0.003),
        ("GET", 500, 0.0),
        ("PUT", 503, 0.0),
        ("PUT", 504, 0.0),
    ):
        counts.add(method, "/:key", status, seconds)
    assert counts.figures == dict.fromkeys(TRAFFIC, 0), "in one go with those for Prometheus"
    for _ in range(2):  # what was flushed is not counted again
        counts.flush()
    shown = {name: count for name, count in counts.figures.items() if count}
    last = len(DURATION_BOUNDS_S)
    assert shown == {
        "answers_1xx": 1,
        "answers_2xx": 2,
        "answers_3xx": 1,
        "answers_4xx": 2,
        "answers_5xx": 3,
        "answers_503": 1,
        "answers_504": 1,
        "took_us": 20_503_210,
        "took_0": 5,
        "took_1": 1,
        "took_5": 1,
        f"took_{last - 1}": 1,
        f"took_{last}": 1,
    }
    counts.add("PUT", "/:key", 504, 0.0)
    counts.flush()
    assert counts.figures["answers_504"] == 2


def test_the_figures_fit_into_a_row_of_the_board() -> None:
    for row in (WorkerRow, GatewayRow):
        assert len(set(row.FIGURES)) == len(row.FIGURES)
        assert set(TRAFFIC) <= set(row.COUNTERS)
        assert row._FIGURES_AT + 1 + len(row.FIGURES) <= ROW_WORDS
