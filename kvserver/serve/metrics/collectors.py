"""What /metrics shows, as collectors of prometheus_client; `serve.exporter` answers with it.

Two sources: what web workers and gateways count themselves (prometheus_client in multiprocess mode, files in the run
directory), and the board, where shards, gateways and log keep their figures. Scraping costs no worker anything.

Names follow Prometheus' conventions: seconds and bytes, `_total` for what only grows. It goes on growing when a process
is replaced: who is killed takes along what it had not shown yet, less than a second's worth.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from shards.host.board import NONE, Board, ProcessRow, ShardRow
from shards.log.files import SEGMENT

log = logging.getLogger(__name__)

NS = 1e-9
MS = 1e-3

OPERATIONS = {
    "puts": "put",
    "deletes": "delete",
    "touches": "touch",
    "prefix_deletes": "delete_prefix",
    "expired": "expire",
    "evicted": "evict",
    "refused": "refused",
}
"""Figure of a shard to value of the label `kind`."""

SHARD_GAUGES = {
    "keys": ("kvserver_shard_keys", "Keys in the shard, expired ones that are not deleted yet included.", 1.0),
    "bytes": ("kvserver_shard_bytes", "Bytes of keys and values in the shard.", 1.0),
    "queue": ("kvserver_shard_queue_operations", "Most operations that were waiting at once, of late.", 1.0),
    "expiry_lag_ms": (
        "kvserver_shard_expiry_lag_seconds",
        "How far deleting of expired keys is behind their time.",
        MS,
    ),
    "map_bytes": ("kvserver_shard_map_bytes", "Bytes the shard's map takes in the map directory.", 1.0),
    "map_full": ("kvserver_shard_map_full", "1 while the shard refuses growth for want of room for its map.", 1.0),
}
"""Figure to name, help and factor."""

SHARD_COUNTERS = {
    "groups": ("kvserver_shard_groups", "Groups of operations that were logged together.", 1.0),
    "operations": ("kvserver_shard_group_operations", "Operations in those groups; divided by them: group size.", 1.0),
    "append_ns": ("kvserver_shard_append_seconds", "Time spent appending to the log.", NS),
    "flush_ns": ("kvserver_shard_flush_seconds", "Time spent waiting for the log to be flushed.", NS),
    "apply_ns": ("kvserver_shard_apply_seconds", "Time spent applying groups to the map.", NS),
}

GATEWAY_COUNTERS = {
    "events": ("kvserver_feed_events", "Changes shown to the feed, each counted once."),
    "deliveries": ("kvserver_feed_deliveries", "Messages written to feed clients."),
    "activity": ("kvserver_feed_activity", "Lines of activity (reads, lists, heartbeats) shown to the feed."),
    "gaps": ("kvserver_feed_gaps", "Clients told that changes they asked for are not in the log any more."),
    "log_reads": ("kvserver_feed_log_reads", "Reads of the log because messages of a shard were missed."),
    "lag_closed": ("kvserver_feed_lag_closed", "Clients closed because they did not take what was sent."),
    "records": ("kvserver_feed_records", "Records of the log decoded for the feed."),
}

WORKER_COUNTERS = {
    "requests": ("kvserver_worker_requests", "Requests answered."),
    "messages": ("kvserver_worker_messages", "Messages sent to shards."),
    "operations": ("kvserver_worker_operations", "Operations in those messages; divided by them: batching."),
    "unknown_outcomes": ("kvserver_worker_unknown_outcomes", "Writes whose outcome could not be told."),
    "refused_overload": ("kvserver_worker_overload_refusals", "Requests refused because too many were in flight."),
}


STARTS = "kvserver_process_starts", "Processes that gunicorn started, those in the place of others included."


class BoardCollector(Collector):
    """Renders the board. Reads words only; asks nobody and takes no lock for longer than a probe."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterable[Metric]:
        """All families, as prometheus_client wants them."""
        yield from self._server()
        yield from self._log()
        yield from self._shards()
        yield from self._workers()
        yield from self._gateways()

    def _server(self) -> Iterator[Metric]:
        facts = self._board.facts
        info = GaugeMetricFamily(
            "kvserver_info", "1; the labels tell version, epoch and sync mode.", labels=["version", "epoch", "sync"]
        )
        info.add_metric([facts.version, facts.epoch, "memory" if facts.in_memory else facts.sync], 1)
        yield info
        yield _gauge("kvserver_start_time_seconds", "Unix time of the server's start.", facts.started_ms * MS)
        yield _gauge(
            "kvserver_clock_ahead_seconds",
            "How far the clock is ahead of the time that lifetimes count by; jumps when the clock is set.",
            -self._board.now().behind_ms * MS,
        )
        used = sum(row.bytes_now for row in self._board.shards)
        yield _gauge("kvserver_memory_used_bytes", "Bytes of keys and values that count towards the limit.", used)
        yield _gauge("kvserver_memory_limit_bytes", "Most bytes of keys and values; 0: no limit.", facts.max_memory)
        restarts = CounterMetricFamily(
            "kvserver_process_restarts", "How often a process of the server was started again.", labels=["process"]
        )
        for i, row in enumerate(self._board.shards):
            restarts.add_metric([f"shard {i}"], row.restarts)
        for name, count in self._board.exporter.read_restarts().items():
            restarts.add_metric([name], count)
        yield restarts
        starts = CounterMetricFamily(*STARTS, labels=["process"])
        starts.add_metric(["gateway"], sum(row.starts for row in self._board.gateways))
        starts.add_metric(["web"], sum(row.starts for row in self._board.workers))
        yield starts

    def _log(self) -> Iterator[Metric]:
        words = self._board.log
        watermark_lsn, watermark = self._board.watermark()
        synced = words.synced
        tail, following = self._board.history()  # last: it is never behind the others
        yield _gauge("kvserver_log_next_revision", "Revision the next change will get.", following)
        yield _gauge("kvserver_log_oldest_revision", "First revision that can still be read.", words.oldest_revision)
        yield _gauge("kvserver_log_watermark_revision", "Revision up to which all is durable and shown.", watermark)
        yield _counter("kvserver_log_appended_bytes", "Position of the log's end since the store was made.", tail)
        yield _gauge("kvserver_log_bytes", "Bytes of the log that are kept.", max(0, tail - words.oldest))
        segments = max(0, words.ready - words.oldest) // SEGMENT
        yield _gauge("kvserver_log_segments", "Segments of the log, those that are ready included.", segments)
        yield _gauge("kvserver_log_ready_bytes", "Room in segments that are ready.", max(0, words.ready - tail))
        yield _gauge("kvserver_log_unsynced_bytes", "Bytes that are not flushed yet.", max(0, tail - synced))
        yield _gauge("kvserver_log_unapplied_bytes", "Bytes that are not applied yet.", max(0, tail - watermark_lsn))
        yield _gauge(
            "kvserver_log_since_snapshot_bytes", "Bytes a restart would replay.", max(0, tail - words.snapshot)
        )
        yield _gauge("kvserver_log_full", "1 while no further segment can be made.", words.full)
        yield _gauge("kvserver_log_broken", "1 after a flush failed; the server is ending.", words.broken)

    def _shards(self) -> Iterator[Metric]:
        rows = [(str(i), row, row.read_figures()) for i, row in enumerate(self._board.shards)]
        up = GaugeMetricFamily("kvserver_shard_up", "1 if the shard serves.", labels=["shard"])
        for shard, row, _ in rows:
            up.add_metric([shard], float(row.state == ProcessRow.UP and not row.given_up and _lives(row)))
        yield up
        operations = CounterMetricFamily(
            "kvserver_shard_operations", "What the shard did, by kind.", labels=["shard", "kind"]
        )
        for shard, _, figures in rows:
            for figure, kind in OPERATIONS.items():
                operations.add_metric([shard, kind], figures[figure])
        yield operations
        for figure, (name, text, factor) in SHARD_GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=["shard"])
            for shard, _, figures in rows:
                gauge.add_metric([shard], figures[figure] * factor)
            yield gauge
        for figure, (name, text, factor) in SHARD_COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=["shard"])
            for shard, _, figures in rows:
                counter.add_metric([shard], figures[figure] * factor)
            yield counter

    def _workers(self) -> Iterator[Metric]:
        living = [row for _, row in self._board.workers.living_rows()]
        yield _gauge("kvserver_workers", "Living web workers.", len(living))
        yield _gauge("kvserver_requests_in_flight", "Requests being answered.", sum(row.in_flight for row in living))
        yield _gauge("kvserver_connections", "Open connections of clients.", sum(row.connections for row in living))
        yield from _counters(WORKER_COUNTERS, "worker", self._board.workers.used_rows())

    def _gateways(self) -> Iterator[Metric]:
        living = self._board.gateways.living_rows()
        yield _gauge("kvserver_gateways", "Living feed gateways.", len(living))
        clients = GaugeMetricFamily("kvserver_feed_clients", "Open feed connections.", labels=["gateway"])
        lag = GaugeMetricFamily("kvserver_feed_lag_revisions", "Shown changes not sent yet.", labels=["gateway"])
        watermark = self._board.watermark()[1]
        for i, row in living:
            clients.add_metric([str(i)], row.clients)
            lag.add_metric([str(i)], max(0, watermark - row.position) if row.state == ProcessRow.UP else 0)
        yield clients
        yield lag
        yield from _counters(GATEWAY_COUNTERS, "gateway", self._board.gateways.used_rows())


def _counters(
    families: Mapping[str, tuple[str, str]], label: str, rows: Iterable[tuple[int, ProcessRow]]
) -> Iterator[Metric]:
    """A family for each figure of rows: those of the dead stay."""
    figures = [(str(i), row.read_figures()) for i, row in rows]
    for figure, (name, text) in families.items():
        counter = CounterMetricFamily(name, text, labels=[label])
        for index, shown in figures:
            counter.add_metric([index], shown[figure])
        yield counter


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _lives(row: ShardRow) -> bool:
    return row.pid not in (0, NONE) and Path(f"/proc/{row.pid}").exists()


class CountedByWorkers(Collector):
    """What web workers and gateways count themselves, one set of files for each process that ever lived.

    Files of the dead are folded into one, or each scrape would cost more with every restart; their sums must stay. A
    process that is killed, or has no space, may leave a file in any state: no such file may cost the others' figures.
    """

    def __init__(self, metrics_dir: Path) -> None:
        self._dir, self._lock = metrics_dir, threading.Lock()
        self._collector = MultiProcessCollector(None, path=os.fspath(metrics_dir))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        """All families, summed over the processes."""
        with self._lock:
            files = [os.fspath(file) for file in self._dir.glob("*.db") if _is_readable(file)]
            return list(self._collector.merge(files))  # type: ignore[no-untyped-call]

    def sweep(self) -> None:
        """Fold what the dead have counted; remove what they said of the living."""
        with self._lock:
            for file in self._dir.glob("*_*.db"):
                kind, pid = file.stem.partition("_")[0], file.stem.rpartition("_")[2]
                if pid == _FOLDED or not pid.isdigit() or Path(f"/proc/{pid}").exists():
                    continue
                try:
                    if kind in ("counter", "histogram"):
                        if _is_readable(file):
                            _fold(file, file.with_name(f"{kind}_{_FOLDED}.db"))
                        file.unlink()
                    elif kind == "gauge":
                        mark_process_dead(int(pid), os.fspath(self._dir))  # type: ignore[no-untyped-call]
                except OSError as error:
                    log.debug("%s stays: %s", file, error)


_FOLDED = "0"  # no process has this pid


def _fold(file: Path, into: Path) -> None:
    """Add the values of `file` to those of `into`. Buckets of histograms are kept unsummed in files."""
    total = MmapedDict(os.fspath(into))  # type: ignore[no-untyped-call]
    try:
        for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(os.fspath(file)):  # type: ignore[no-untyped-call]
            before, _ = total.read_value(key)  # type: ignore[no-untyped-call]
            total.write_value(key, before + value, timestamp)  # type: ignore[no-untyped-call]
    finally:
        total.close()  # type: ignore[no-untyped-call]


def _is_readable(file: Path) -> bool:
    """Whether `file` can be read to its end: not one that was just made, or broke off."""
    try:
        for _ in MmapedDict.read_all_values_from_file(os.fspath(file)):  # type: ignore[no-untyped-call]
            pass
    except (OSError, RuntimeError, ValueError, struct.error):
        return False
    return True
