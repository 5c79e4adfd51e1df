"""The words of the board by name: those of each process's row, and those of the header. `board` has their rules."""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping
from operator import add
from typing import ClassVar, Final, overload

from shards.host import fences
from shards.host.fences import Fence
from shards.host.process import read_scheduling

NONE = (1 << 64) - 1
"""All ones: no LSN, no revision."""

MAX_SHARDS, MAX_WORKERS, MAX_GATEWAYS = 256, 128, 32

HEADER_WORDS: Final = 1024
"""Words before the first row: 8 KiB, the facts included."""
ROW_WORDS: Final = 64
HEADER_AT: Final = 0
LOG_AT: Final = 16
ORDER_AT: Final = 32
EXPORTER_AT: Final = 96
"""Index of the first word of each part of the header."""

_SEQLOCK_TRIES = 8

DURATION_BOUNDS_S: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds of the buckets in which durations of requests are counted; one more bucket has what took longer."""
ANSWER_CLASSES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")
TRAFFIC: Final = (
    *(f"answers_{name}" for name in (*ANSWER_CLASSES, 503, 504)),
    "took_us",
    *(f"took_{bucket}" for bucket in range(len(DURATION_BOUNDS_S) + 1)),
)
"""Counters of a process that answers requests: answers by class, and of two statuses; microseconds that requests took,
and requests by bucket."""


class Word:
    """Descriptor of one word of a row or of the header."""

    def __init__(self, index: int) -> None:
        self.index = index

    @overload
    def __get__(self, row: None, owner: type) -> Word: ...
    @overload
    def __get__(self, row: Row, owner: type) -> int: ...
    def __get__(self, row: Row | None, owner: type) -> int | Word:
        return self if row is None else row.words[row.base + self.index]

    def __set__(self, row: Row, value: int) -> None:
        row.words[row.base + self.index] = value


class Row:
    """Consecutive words, from `base` on."""

    COUNTERS: ClassVar[tuple[str, ...]] = ()
    FIGURES: ClassVar[tuple[str, ...]] = ()  # COUNTERS first
    _FIGURES_AT: ClassVar[int] = 16  # sequence word, then the figures

    def __init__(self, words: memoryview[int], base: int, fence: fences.Raise | None = fences.NEEDED) -> None:
        self.words, self.base, self.fence = words, base, fence
        self._last: dict[str, int] = dict.fromkeys(self.FIGURES, 0)
        self._counted_before = [0] * len(self.FIGURES)

    def resume_counters(self) -> None:
        """Continue the counters that the row shows. The first step of its new owner.

        A predecessor that died while it published leaves some figures older than others, but each is one that was
        shown, or was about to be.
        """
        at = self.base + self._FIGURES_AT + 1
        self._counted_before[: len(self.COUNTERS)] = self.words[at : at + len(self.COUNTERS)].tolist()

    def publish_figures(self, figures: Mapping[str, int]) -> None:
        """Publish `figures`: a value for each name in FIGURES, whole numbers from 0; COUNTERS since this process began.

        Only the row's owner may.
        """
        sequence = self.base + self._FIGURES_AT
        begun = self.words[sequence] | 1  # odd also if a predecessor died inside
        self.words[sequence] = begun
        values = array("Q", map(add, map(figures.__getitem__, self.FIGURES), self._counted_before))
        if self.fence:
            self.fence(Fence.ODD_THEN_FIGURES)
        self.words[sequence + 1 : sequence + 1 + len(values)] = memoryview(values)
        if self.fence:
            self.fence(Fence.FIGURES_THEN_EVEN)
        self.words[sequence] = begun + 1

    def read_figures(self) -> dict[str, int]:
        """Read the figures published last; after a few tries during a write, return the ones this object read last."""
        sequence = self.base + self._FIGURES_AT
        for _ in range(_SEQLOCK_TRIES):
            before = self.words[sequence]
            if self.fence:
                self.fence(Fence.SEQUENCE_THEN_FIGURES)
            values = self.words[sequence + 1 : sequence + 1 + len(self.FIGURES)].tolist()
            if self.fence:
                self.fence(Fence.FIGURES_THEN_SEQUENCE)
            if not before & 1 and self.words[sequence] == before:
                self._last = dict(zip(self.FIGURES, values, strict=True))
                break
        return self._last

    def store_after_file(self, word: Word, value: int) -> None:
        """Store `value` in `word`, which announces a file. A process that sees it finds the file as it is now."""
        if self.fence:
            self.fence(Fence.FILE_THEN_WORD)
        self.words[self.base + word.index] = value

    def load_before_file(self, word: Word) -> int:
        """Load `word`, which announces a file. The file is at least as new as the word says."""
        value = self.words[self.base + word.index]
        if self.fence:
            self.fence(Fence.WORD_THEN_FILE)
        return value

    def record_heartbeat(self) -> None:
        """Store the time, as a sign that the owner's loop runs."""
        self.words[self.base + ProcessRow.heartbeat_ns.index] = time.monotonic_ns()


class ProcessRow(Row):
    """The words that every process's row starts with."""

    STARTING, UP, STOPPING = 1, 2, 3

    pid = Word(0)
    state = Word(1)
    heartbeat_ns = Word(2)  # CLOCK_MONOTONIC
    tokens = Word(13)  # which change of the tokens it goes by: `LogWords.tokens` as it was then
    starts = Word(15)  # processes that have had the row

    @property
    def scheduling(self) -> str:
        """How the kernel schedules the process, as `read_scheduling` says it."""
        return read_scheduling(self.pid)


class ShardRow(ProcessRow):
    """Row of shard i, written by its process; `given_up` by the supervisor."""

    incarnation = Word(3)  # of the process that serves now; 0: none has bound its sockets yet
    map_generation = Word(4)  # of the map that readers open; 0: none yet
    open_revision = Word(5)
    open = Word(6)
    given_up = Word(7)  # 1: it fails to start again and again, so requests fail at once. By the supervisor
    bytes_now = Word(8)  # of keys and values, as after the last commit
    restarts = Word(14)  # how often it was started again; by the supervisor

    KINDS: ClassVar[Mapping[str, str]] = {
        "puts": "put",
        "deletes": "delete",
        "touches": "touch",
        "prefix_deletes": "delete_prefix",
        "expired": "expire",
        "evicted": "evict",
        "refused": "refused",
    }
    """Counters of changes, and the kinds by which people know them."""

    COUNTERS = (
        "puts",
        "deletes",
        "touches",
        "prefix_deletes",
        "expired",
        "evicted",
        "refused",
        "groups",
        "operations",
        "append_ns",
        "flush_ns",
        "apply_ns",
    )
    FIGURES = (*COUNTERS, "keys", "bytes", "queue", "expiry_lag_ms", "map_bytes", "map_full", "pinned_pid")

    def set_open(self, revision: int, lsn: int) -> None:
        """Note that a record whose first revision is `revision` is about to be appended at `lsn`, or after filler
        there.
        """
        words, base = self.words, self.base
        words[base + _OPEN_REVISION] = revision
        words[base + _OPEN] = lsn

    def clear_open(self) -> None:
        """Note that the open record is applied, or was never appended."""
        words, base = self.words, self.base
        if self.fence:
            self.fence(Fence.APPLIED_THEN_CLEAR)
        words[base + _OPEN] = NONE
        if self.fence:
            self.fence(Fence.CLEAR_THEN_REVISION)
        words[base + _OPEN_REVISION] = NONE


# Set by every group: without the descriptor's call.
_OPEN_REVISION: Final = ShardRow.open_revision.index
_OPEN: Final = ShardRow.open.index


class WorkerRow(ProcessRow):
    """Row of a web worker."""

    in_flight = Word(3)  # requests that count towards the limit of the server
    connections = Word(4)

    COUNTERS = FIGURES = ("requests", "messages", "operations", "unknown_outcomes", "refused_overload", *TRAFFIC)


class GatewayRow(ProcessRow):
    """Row of a gateway process."""

    clients = Word(3)
    listening = Word(4)  # how many clients want activity
    position = Word(5)  # revision up to which events were shown
    roll_call = Word(6)  # how often web workers were asked to show that their activity arrives

    COUNTERS = FIGURES = ("events", "deliveries", "activity", "gaps", "log_reads", "lag_closed", "records", *TRAFFIC)

    def count_lag(self, watermark: int) -> int:
        """Return how many revisions up to `watermark` it has not shown yet; 0 unless it is up."""
        return max(0, watermark - self.position) if self.state == ProcessRow.UP else 0


class HeaderWords(Row):
    """The first words of the file: what it is, and the clock that all processes agree on."""

    magic = Word(0)
    id = Word(1)  # random, another for each run of the store
    recovered = Word(2)  # 1: the log is recovered, others may use the board
    facts_length = Word(3)  # bytes of the facts' JSON
    behind = Word(4)  # by how much the wall clock is behind the steady one, and `BIAS`

    BIAS: ClassVar[int] = 1 << 62  # words have no sign


class LogWords(Row):
    """The words of the log, in the header; see the module's docstring for `turn`."""

    turn = Word(4)
    synced = Word(5)  # LSN up to which the log is flushed; written by the holder of the flush lock
    ready = Word(6)  # LSN up to which segments exist; by the supervisor
    broken = Word(7)  # 1: a flush failed; appends, flushes and acknowledgements are over
    full = Word(8)  # 1: no further segment can be made; by the supervisor
    oldest = Word(9)  # LSN of the oldest record kept; by the supervisor
    oldest_revision = Word(10)  # the first revision that can still be read; by the supervisor
    snapshot = Word(11)  # LSN from which a restart replays; by the supervisor
    restarts = Word(12)  # children started again; by the supervisor
    log_full_since_ms = Word(13)
    flushing = Word(14)  # 1: the holder of the flush lock is flushing, or died there; by that holder
    tokens = Word(15)  # how often tokens were put into effect; 0: no tokens. By the supervisor


class OrderWords(Row):
    """The words of the cluster's order, in the header; written by the shard. Without a cluster all are as they were
    made: 0, but `lease_until`, which is `NONE`.

    A value that was read may be shown if after that both clocks are before `lease_until` and `lease_wall_until`: until
    then no other machine has counted this one out.
    """

    shown_turn = Word(4)  # its two slots are the first words
    lease_until = Word(5)  # CLOCK_BOOTTIME in nanoseconds; NONE: for ever, as there is no cluster
    lease_wall_until = Word(6)  # CLOCK_REALTIME in nanoseconds
    sequence = Word(7)  # of the last message that was decided here
    last = Word(8)  # of the last message of the order, as far as is known
    stable = Word(9)  # the last message that every member has applied
    entered = Word(10)  # the message by which this machine became a member; 0: it is none
    members = Word(11)  # a bit for each of the cluster's machines, in alphabetical order: whether it is a member
    heard = Word(12)  # the same: whether it was heard of in the last seconds
    resent = Word(13)  # messages that were sent again, since the shard's start
    skew_ms = Word(14)  # the largest difference of another machine's clock from this one's

    def has_lease(self) -> bool:
        """Whether no other machine can have counted this one out by now."""
        if time.clock_gettime_ns(time.CLOCK_BOOTTIME) >= self.lease_until:
            return False
        return time.time_ns() < self.lease_wall_until


class ExporterWords(Row):
    """The words of /metrics, in the header: its process writes `pid`, the supervisor the restarts."""

    pid = Word(0)  # of the process that serves; 0: none has begun to

    OTHERS: ClassVar[tuple[str, ...]] = ("gateway", "web", "metrics")
    """Children besides shards, in the order of their words."""

    def read_restarts(self) -> dict[str, int]:
        """Read how often each child, shards aside, was started again, by name."""
        at = self.base + 1
        return dict(zip(self.OTHERS, self.words[at : at + len(self.OTHERS)].tolist(), strict=True))

    def publish_restarts(self, name: str, count: int) -> None:
        """Store how often the child `name`, one of OTHERS, was started again."""
        self.words[self.base + 1 + self.OTHERS.index(name)] = count
