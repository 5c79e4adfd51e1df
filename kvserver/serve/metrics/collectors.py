"""The metrics of the server as collectors of prometheus_client; `exporter` serves them.

There are two sources: files in the run directory, written by web workers and gateways (prometheus_client's multiprocess
mode), and the board, where shards, gateways and log keep their figures. A scrape costs the workers nothing.

Names follow Prometheus' conventions: seconds and bytes, and `_total` for counters. Counters keep growing when a process
is replaced; a killed process loses less than a second of its counts.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
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

SHARD_GAUGES = {
    "keys": ("kvserver_shard_keys", "Keys in the shard, including expired ones not deleted yet.", 1.0),
    "bytes": ("kvserver_shard_bytes", "Bytes of keys and values in the shard.", 1.0),
    "queue": ("kvserver_shard_queue_operations", "Peak number of queued operations, recently.", 1.0),
    "expiry_lag_ms": (
        "kvserver_shard_expiry_lag_seconds",
        "Delay between the expiry of keys and their deletion.",
        MS,
    ),
    "map_bytes": ("kvserver_shard_map_bytes", "Size of the shard's map in the map directory.", 1.0),
    "map_full": ("kvserver_shard_map_full", "1 while the shard refuses growth because its map cannot grow.", 1.0),
}
"""Figure of a shard: name, help and factor."""

SHARD_COUNTERS = {
    "groups": ("kvserver_shard_groups", "Groups of operations logged together.", 1.0),
    "operations": (
        "kvserver_shard_group_operations",
        "Operations in those groups; divide by groups for the mean group size.",
        1.0,
    ),
    "append_ns": ("kvserver_shard_append_seconds", "Time spent appending to the log.", NS),
    "flush_ns": ("kvserver_shard_flush_seconds", "Time spent waiting for flushes of the log.", NS),
    "apply_ns": ("kvserver_shard_apply_seconds", "Time spent applying groups to the map.", NS),
}

GATEWAY_COUNTERS = {
    "events": ("kvserver_feed_events", "Changes published to the feed, each counted once."),
    "deliveries": ("kvserver_feed_deliveries", "Messages written to feed clients."),
    "activity": ("kvserver_feed_activity", "Activity lines (reads, lists, heartbeats) published to the feed."),
    "gaps": ("kvserver_feed_gaps", "Clients that asked for changes no longer in the log."),
    "log_reads": ("kvserver_feed_log_reads", "Reads of the log after missed messages of a shard."),
    "lag_closed": ("kvserver_feed_lag_closed", "Clients disconnected for reading too slowly."),
    "records": ("kvserver_feed_records", "Log records decoded for the feed."),
}

WORKER_COUNTERS = {
    "requests": ("kvserver_worker_requests", "Requests answered."),
    "messages": ("kvserver_worker_messages", "Messages sent to shards."),
    "operations": (
        "kvserver_worker_operations",
        "Operations in those messages; divide by messages for the mean batch size.",
    ),
    "unknown_outcomes": ("kvserver_worker_unknown_outcomes", "Writes with an unknown outcome."),
    "refused_overload": ("kvserver_worker_overload_refusals", "Requests refused because too many were in flight."),
}

STARTS = "kvserver_process_starts", "Processes started by gunicorn, including replacements."


class BoardCollector(Collector):
    """Collects the board's figures. Only reads words of shared memory; sends no message and holds no lock."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterable[Metric]:
        """Yield all metric families."""
        yield from self._server_families()
        yield from self._log_families()
        yield from self._shard_families()
        yield from self._worker_families()
        yield from self._gateway_families()
        if self._board.facts.node:
            yield from self._cluster_families()

    def _server_families(self) -> Iterator[Metric]:
        facts = self._board.facts
        info = GaugeMetricFamily(
            "kvserver_info", "1; labels give version, epoch and sync mode.", labels=["version", "epoch", "sync"]
        )
        info.add_metric([facts.version, facts.epoch, "memory" if facts.in_memory else facts.sync], 1)
        yield info
        yield _gauge_family("kvserver_start_time_seconds", "Unix time of the server's start.", facts.started_ms * MS)
        yield _gauge_family(
            "kvserver_clock_ahead_seconds",
            "How far the wall clock is ahead of the time that lifetimes count by; jumps when the clock is set.",
            -self._board.now().behind_ms * MS,
        )
        used = sum(row.bytes_now for row in self._board.shards)
        yield _gauge_family(
            "kvserver_memory_used_bytes", "Bytes of keys and values that count towards the limit.", used
        )
        yield _gauge_family(
            "kvserver_memory_limit_bytes", "Limit of bytes of keys and values; 0: no limit.", facts.max_memory
        )
        restarts = CounterMetricFamily(
            "kvserver_process_restarts", "Restarts of the server's processes.", labels=["process"]
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

    def _log_families(self) -> Iterator[Metric]:
        words = self._board.log
        watermark_lsn, watermark = self._board.watermark()
        synced = words.synced
        tail, following = self._board.history()  # read last: it is never behind the others
        yield _gauge_family("kvserver_log_next_revision", "Revision of the next change.", following)
        yield _gauge_family(
            "kvserver_log_oldest_revision", "Oldest revision that can still be read.", words.oldest_revision
        )
        yield _gauge_family(
            "kvserver_log_watermark_revision", "Revision up to which all changes are durable and published.", watermark
        )
        yield _counter_family(
            "kvserver_log_appended_bytes", "Bytes appended to the log since the store was created.", tail
        )
        yield _gauge_family("kvserver_log_bytes", "Bytes of the log kept on disk.", max(0, tail - words.oldest))
        segments = max(0, words.ready - words.oldest) // SEGMENT
        yield _gauge_family("kvserver_log_segments", "Segments of the log, including prepared ones.", segments)
        yield _gauge_family("kvserver_log_ready_bytes", "Free bytes in prepared segments.", max(0, words.ready - tail))
        yield _gauge_family("kvserver_log_unsynced_bytes", "Bytes of the log not flushed yet.", max(0, tail - synced))
        yield _gauge_family(
            "kvserver_log_unapplied_bytes", "Bytes of the log not applied yet.", max(0, tail - watermark_lsn)
        )
        yield _gauge_family(
            "kvserver_log_since_snapshot_bytes",
            "Bytes of the log that a restart would replay.",
            max(0, tail - words.snapshot),
        )
        yield _gauge_family("kvserver_log_full", "1 while no new segment can be created.", words.full)
        yield _gauge_family("kvserver_log_broken", "1 after a failed flush; the server is stopping.", words.broken)

    def _shard_families(self) -> Iterator[Metric]:
        rows = [(str(i), row, row.read_figures()) for i, row in enumerate(self._board.shards)]
        up = GaugeMetricFamily("kvserver_shard_up", "1 if the shard is serving.", labels=["shard"])
        for shard, row, _ in rows:
            up.add_metric([shard], float(row.state == ProcessRow.UP and not row.given_up and _is_alive(row)))
        yield up
        operations = CounterMetricFamily(
            "kvserver_shard_operations", "Operations of the shard by kind.", labels=["shard", "kind"]
        )
        for shard, _, figures in rows:
            for figure, kind in ShardRow.KINDS.items():
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

    def _worker_families(self) -> Iterator[Metric]:
        living = [row for _, row in self._board.workers.living_rows()]
        yield _gauge_family("kvserver_workers", "Running web workers.", len(living))
        yield _gauge_family(
            "kvserver_requests_in_flight", "Requests being answered.", sum(row.in_flight for row in living)
        )
        yield _gauge_family("kvserver_connections", "Open client connections.", sum(row.connections for row in living))
        yield from _counter_families(WORKER_COUNTERS, "worker", self._board.workers.used_rows())

    def _gateway_families(self) -> Iterator[Metric]:
        living = self._board.gateways.living_rows()
        yield _gauge_family("kvserver_gateways", "Running feed gateways.", len(living))
        clients = GaugeMetricFamily("kvserver_feed_clients", "Open feed connections.", labels=["gateway"])
        lag = GaugeMetricFamily(
            "kvserver_feed_lag_revisions", "Published changes not sent to clients yet.", labels=["gateway"]
        )
        watermark = self._board.watermark()[1]
        for i, row in living:
            clients.add_metric([str(i)], row.clients)
            lag.add_metric([str(i)], row.count_lag(watermark))
        yield clients
        yield lag
        yield from _counter_families(GATEWAY_COUNTERS, "gateway", self._board.gateways.used_rows())

    def _cluster_families(self) -> Iterator[Metric]:
        words, nodes = self._board.order, self._board.facts.nodes.split(",")
        sequence = words.sequence
        member = GaugeMetricFamily(
            "kvserver_cluster_member",
            "1 if the machine is a member, as this one sees it.",
            labels=["node"],
        )
        reachable = GaugeMetricFamily(
            "kvserver_cluster_reachable", "1 if this machine has heard of the other one lately.", labels=["node"]
        )
        for index, node in enumerate(nodes):
            member.add_metric([node], words.members >> index & 1)
            reachable.add_metric([node], words.heard >> index & 1)
        yield member
        yield reachable
        is_current = time.clock_gettime_ns(time.CLOCK_BOOTTIME) < words.lease_until
        yield _gauge_family("kvserver_cluster_current", "1 if this machine may answer reads.", is_current)
        yield _gauge_family("kvserver_order_sequence", "Last message of the order that was decided here.", sequence)
        yield _gauge_family(
            "kvserver_order_lag_messages", "Messages of the order not decided here yet.", max(0, words.last - sequence)
        )
        yield _gauge_family(
            "kvserver_order_unstable_messages",
            "Messages that some member may not have applied yet.",
            max(0, sequence - words.stable),
        )
        yield _gauge_family(
            "kvserver_order_resent_messages", "Messages sent again since the shard was started.", words.resent
        )
        yield _gauge_family(
            "kvserver_cluster_clock_difference_seconds",
            "Largest difference of another machine's clock from this one's.",
            words.skew_ms * MS,
        )


def _counter_families(
    families: Mapping[str, tuple[str, str]], label: str, rows: Iterable[tuple[int, ProcessRow]]
) -> Iterator[Metric]:
    """Yield a counter for each figure of the rows, including rows of dead processes."""
    figures = [(str(i), row.read_figures()) for i, row in rows]
    for figure, (name, text) in families.items():
        counter = CounterMetricFamily(name, text, labels=[label])
        for index, shown in figures:
            counter.add_metric([index], shown[figure])
        yield counter


def _gauge_family(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter_family(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _is_alive(row: ShardRow) -> bool:
    return row.pid not in (0, NONE) and Path(f"/proc/{row.pid}").exists()


class ProcessFilesCollector(Collector):
    """Collects what web workers and gateways count in files, one set of files per process.

    Files of dead processes are folded into one file: their sums must stay, but each scrape would get slower with every
    restart. A process that is killed or runs out of space may leave a damaged file, which is skipped.
    """

    def __init__(self, metrics_dir: Path) -> None:
        self._dir, self._lock = metrics_dir, threading.Lock()
        self._collector = MultiProcessCollector(None, path=os.fspath(metrics_dir))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        """Return all metric families, summed over the processes."""
        with self._lock:
            files = [os.fspath(file) for file in self._dir.glob("*.db") if _is_readable(file)]
            return list(self._collector.merge(files))  # type: ignore[no-untyped-call]

    def fold_dead(self) -> None:
        """Fold the counters of dead processes into one file, and remove their gauges."""
        with self._lock:
            for file in self._dir.glob("*_*.db"):
                kind, pid = file.stem.partition("_")[0], file.stem.rpartition("_")[2]
                if pid == _FOLDED or not pid.isdigit() or Path(f"/proc/{pid}").exists():
                    continue
                try:
                    if kind in ("counter", "histogram"):
                        if _is_readable(file):
                            _fold_file(file, file.with_name(f"{kind}_{_FOLDED}.db"))
                        file.unlink()
                    elif kind == "gauge":
                        mark_process_dead(int(pid), os.fspath(self._dir))  # type: ignore[no-untyped-call]
                except OSError as error:
                    log.debug("cannot fold %s: %s", file, error)


_FOLDED = "0"  # no process has this pid


def _fold_file(file: Path, into: Path) -> None:
    """Add the values of `file` to those of `into`. Files hold the buckets of histograms without cumulation."""
    total = MmapedDict(os.fspath(into))  # type: ignore[no-untyped-call]
    try:
        for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(os.fspath(file)):  # type: ignore[no-untyped-call]
            before, _ = total.read_value(key)  # type: ignore[no-untyped-call]
            total.write_value(key, before + value, timestamp)  # type: ignore[no-untyped-call]
    finally:
        total.close()  # type: ignore[no-untyped-call]


def _is_readable(file: Path) -> bool:
    """Return whether `file` can be read to its end, unlike a new or a truncated one."""
    try:
        for _ in MmapedDict.read_all_values_from_file(os.fspath(file)):  # type: ignore[no-untyped-call]
            pass
    except (OSError, RuntimeError, ValueError, struct.error):
        return False
    return True
