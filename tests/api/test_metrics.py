"""What /metrics keeps of processes that are dead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from kvserver.metrics import CountedByWorkers

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


def samples(counted: CountedByWorkers) -> dict[tuple[str, str], float]:
    registry = CollectorRegistry()
    registry.register(counted)
    return {
        (sample.name, sample.labels.get("le", sample.labels.get("kind", ""))): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def test_sums_stay_files_go_and_the_dead_are_not_counted_as_living(metrics_dir: Path) -> None:
    counted = CountedByWorkers(metrics_dir)
    before = samples(counted)
    assert before["seen_total", "a"] == 9
    assert before["took_seconds_count", ""] == before["took_seconds_bucket", "+Inf"] == 12
    assert before["took_seconds_bucket", "0.1"] == 3
    assert before["living", ""] == 3
    counted.sweep()
    after = samples(counted)
    assert before.pop(("living", "")) == 3
    assert after == before
    assert sorted(path.name for path in metrics_dir.iterdir()) == ["counter_0.db", "histogram_0.db"]
    counted.sweep()
    assert samples(counted) == before


def test_the_living_keep_their_files(metrics_dir: Path) -> None:
    mine = metrics_dir / f"counter_{os.getpid()}.db"
    next(metrics_dir.glob("counter_*.db")).rename(mine)
    counted = CountedByWorkers(metrics_dir)
    counted.sweep()
    assert mine.exists()
    assert samples(counted)["seen_total", "a"] == 9
