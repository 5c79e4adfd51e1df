"""What /metrics keeps of processes that are dead, and what a worker counts of what it answers and refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from kvserver.serve.metrics.collectors import ProcessFilesCollector
from kvserver.settings import ServerSettings
from kvserver.web.limits.load import MOST_IN_FLIGHT
from kvserver.web.ports import ARRIVAL_S
from tests.api.web import Web, request, scenario

SPARE = ServerSettings().spare_places
WORKER = """
from prometheus_client import Counter, Gauge, Histogram
Counter("seen", "What was seen.", ["kind"]).labels("a").inc(3)
took = Histogram("took_seconds", "How long it took.", buckets=(0.1, 1))
for value in (0.05, 0.5, 0.5, 5):
    took.observe(value)
Gauge("living", "Who lives.", multiprocess_mode="livesum").inc()
"""


@pytest.fixture
def metrics_dir(tmp_path: Path) -> Path:
    """Files of three processes that are dead."""
    for _ in range(3):
        environ = dict(os.environ) | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        subprocess.run([sys.executable, "-c", WORKER], env=environ, check=True)
    return tmp_path


def samples(counted: ProcessFilesCollector) -> dict[tuple[str, str], float]:
    registry = CollectorRegistry()
    registry.register(counted)
    return {
        (sample.name, sample.labels.get("le", sample.labels.get("kind", ""))): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def test_sums_stay_files_go_and_the_dead_are_not_counted_as_living(metrics_dir: Path) -> None:
    counted = ProcessFilesCollector(metrics_dir)
    before = samples(counted)
    assert before["seen_total", "a"] == 9
    assert before["took_seconds_count", ""] == before["took_seconds_bucket", "+Inf"] == 12
    assert before["took_seconds_bucket", "0.1"] == 3
    assert before["living", ""] == 3
    counted.fold_dead()
    after = samples(counted)
    assert before.pop(("living", "")) == 3
    assert after == before
    assert sorted(path.name for path in metrics_dir.iterdir()) == ["counter_0.db", "histogram_0.db"]
    counted.fold_dead()
    assert samples(counted) == before


def test_the_living_keep_their_files(metrics_dir: Path) -> None:
    mine = metrics_dir / f"counter_{os.getpid()}.db"
    next(metrics_dir.glob("counter_*.db")).rename(mine)
    counted = ProcessFilesCollector(metrics_dir)
    counted.fold_dead()
    assert mine.exists()
    assert samples(counted)["seen_total", "a"] == 9


def test_a_file_that_broke_off_costs_no_other_its_figures(metrics_dir: Path) -> None:
    """Whoever is killed while it makes its files leaves them empty; a disk that was full, without their end."""
    (metrics_dir / "counter_999999991.db").touch()
    whole = next(metrics_dir.glob("histogram_*.db"))
    (metrics_dir / "histogram_999999992.db").write_bytes(whole.read_bytes()[:300])
    counted = ProcessFilesCollector(metrics_dir)
    before = samples(counted)
    assert before["seen_total", "a"] == 9
    assert before["took_seconds_count", ""] == 12
    counted.fold_dead()
    assert samples(counted)["took_seconds_count", ""] == 12
    assert sorted(path.name for path in metrics_dir.iterdir()) == ["counter_0.db", "histogram_0.db"]


def requests_counted(web: Web) -> dict[tuple[str, str, str], float]:
    """By method, path and status."""
    web.counts.flush()
    return {
        (sample.labels["method"], sample.labels["path"], sample.labels["status"]): sample.value
        for family in web.registry.collect()
        for sample in family.samples
        if sample.name == "http_requests_total"
    }


REFUSED: list[tuple[bytes, tuple[str, str, str]]] = [
    (b"GET k HTTP/1.1\r\n\r\n", ("GET", "other", "400")),
    (b"\x16\x03\x01\x02\x00\r\n\r\n", ("other", "other", "400")),
    (b'EVIL",x="1 /k HTTP/1.1\r\nHost: a\r\n\r\n', ("other", "other", "400")),
    (b"BREW /k HTTP/1.1\r\nHost: a\r\n\r\n", ("other", "/:key", "405")),
    (b"MKCOL /k HTTP/1.1\r\nHost: a\r\n\r\n", ("other", "/:key", "405")),
    (b"GET /secret-1 HTTP/1.1\r\n\r\n", ("GET", "/:key", "400")),  # no Host
    (b"GET /secret-2 HTTP/1.1\r\nHost: a b\r\n\r\n", ("GET", "/:key", "400")),
    (b"GET /%ff HTTP/1.1\r\nHost: a\r\n\r\n", ("GET", "/:key", "400")),
    (b"GET /v1/kv/%zz HTTP/1.1\r\nHost: a\r\n\r\n", ("GET", "/v1/kv/:key", "400")),
    (b"GET /keys/%ff HTTP/1.1\r\nHost: a\r\n\r\n", ("GET", "/keys/:prefix", "400")),
    (b"GET /a/b/secret-3?x=1 HTTP/1.1\r\nHost: a\r\n\r\n", ("GET", "other", "404")),
    (b"GET /v1/secret-4/x HTTP/1.1\r\nHost: a\r\n\r\n", ("GET", "/v1/*", "404")),
    (b"GET /docs/errors/secret-5 HTTP/1.1\r\nHost: a\r\n\r\n", ("GET", "/docs/errors/:code", "404")),
    (b"GET /" + b"s" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", ("GET", "/:key", "414")),
    (b"GET /k HTTP/1.1\r\nHost: a\r\nX: " + b"s" * 70_000 + b"\r\n\r\n", ("GET", "/:key", "431")),
    (b"PUT /secret-6 HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\n\r\n", ("PUT", "/:key", "413")),
    (b"PUT /v1/kv/s/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\n\r\n", ("PUT", "/v1/kv/:key", "413")),
    (b"GET /v1/feed HTTP/1.1\r\nHost: a\r\n\r\n", ("GET", "/v1/feed", "503")),  # there is no gateway
    (b"GET /wal HTTP/1.1\r\nHost: a\r\n\r\n", ("GET", "/wal", "400")),
    (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", ("OPTIONS", "other", "200")),
    (b"HEAD /k HTTP/1.1\r\nHost: a\r\n\r\n", ("HEAD", "/:key", "200")),
]
"""A request, and how it is counted: once, by its route, whoever answers it."""


@pytest.mark.usefixtures("no_gateway")
@scenario
async def test_what_any_layer_answers_is_counted_once_and_by_its_route(web: Web) -> None:
    for data, labels in REFUSED:
        before = requests_counted(web)
        status = (await web.ask(data)).status
        after = requests_counted(web)
        assert str(status) == labels[2], data[:60]
        assert {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key)} == {
            labels: 1
        }, data[:60]


@scenario
async def test_what_comes_late_too_much_or_for_nobody_is_counted(web: Web) -> None:
    late = await web.connect()
    await late.send(b"PUT /late HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
    await web.advance(ARRIVAL_S + 1)
    assert (await late.answer()).status == 408
    web.shards.gate.clear()
    gone = await web.connect()
    await gone.send(request("PUT", "/gone", body=b"1"))
    await web.until(lambda: web.row.in_flight == 1)
    other = web.board.workers[1]
    web.context.load._peer_words.append(other.base + type(other).in_flight.index)
    other.in_flight = MOST_IN_FLIGHT + SPARE
    assert (await web.ask(request("GET", "/much"))).status == 503
    gone.reset()
    await web.until(lambda: len(web.context.connections) == 1)
    web.shards.gate.set()
    await web.until(lambda: web.row.in_flight == 0)
    assert requests_counted(web) == {
        ("PUT", "/:key", "408"): 1,
        ("GET", "/:key", "503"): 1,
        ("PUT", "/:key", "499"): 1,
    }
