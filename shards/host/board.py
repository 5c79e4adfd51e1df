"""The board: one small shared-memory table that all processes of a store map.

Every word is 8 bytes, aligned, and written by one process at a time with one store (`memoryview.cast("Q")`;
`struct.pack_into` would zero the word first, and readers see that). Each word is valid on its own; where two belong
together there is a rule:

- **The history** is {tail, next revision} in two slots and `turn`, a count of appends whose lowest bit names the
  current slot. The holder of the append lock fills the other slot, then raises `turn`: a writer killed anywhere
  leaves one whole pair, and nothing is ever repaired.
- **`open_revision`, `open`** of a shard: first revision and LSN of its record that is not applied yet, or
  `NONE`. Set, in this order, before `turn` shows the record; cleared after it is applied.
- **What may be shown** on a machine of a cluster, {LSN, revision} in two slots and `shown_turn`, by the same rule as
  the history: up to where every member is known to have applied the log. The shard fills it.
- **A word that announces a file** (`ready`, `map_generation`, `tokens`) is stored after the file is complete.
- **Figures** for display are guarded by a seqlock. Its readers give up after a few tries and use the figures that they
  read last: the writer may have died inside. `COUNTERS` continue from the values of the row's last process, so they
  never go backwards while the board lives.

A row belongs to one process, which writes it alone. Rows of shards are numbered; workers and gateways claim a free
row, held by a lock for life on the row's first byte of this file, so a row whose lock is free is a dead process's.

Where the order of stores or loads matters, there is a fence for processors that do not keep it: see `fences`.

The file is made under a temporary name and renamed in, so what can be opened is whole; it is never truncated. Facts
that do not change while the board lives (`Facts`) are stored in it as JSON.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import secrets
import time
from array import array
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec

from shards.files import locks, path_text, safe_files
from shards.files.trusted_path import trusted_uids, user_name
from shards.host.board_words import (
    ANSWER_CLASSES,
    DURATION_BOUNDS_S,
    EXPORTER_AT,
    HEADER_AT,
    HEADER_WORDS,
    LOG_AT,
    MAX_GATEWAYS,
    MAX_SHARDS,
    MAX_WORKERS,
    NONE,
    ORDER_AT,
    ROW_WORDS,
    TRAFFIC,
    ExporterWords,
    GatewayRow,
    HeaderWords,
    LogWords,
    OrderWords,
    ProcessRow,
    Row,
    ShardRow,
    WorkerRow,
)
from shards.host.fences import Fence
from shards.wire.clock import Now, counted_ms
from shards.wire.errors import what_helps

__all__ = [
    "ANSWER_CLASSES",
    "DRIFT_MS",
    "DURATION_BOUNDS_S",
    "MAX_GATEWAYS",
    "MAX_SHARDS",
    "NONE",
    "TRAFFIC",
    "Board",
    "BoardError",
    "BoardNotBelieved",
    "BoardOutOfReach",
    "Facts",
    "GatewayRow",
    "LogWords",
    "ProcessRow",
    "ShardRow",
    "WorkerRow",
]

_MAGIC = int.from_bytes(b"KVBOARD1", "little")
_FACTS_AT, _FACTS_MAX = 1024, 7168  # bytes
_SUPERVISOR_LOCK = 0  # byte of the file that the supervisor has locked for life; rows are further on
_BEHIND, _BIAS = HEADER_AT + HeaderWords.behind.index, HeaderWords.BIAS
_TURN = LOG_AT + LogWords.turn.index  # its two slots are the first words of the log
_SHOWN_TURN = ORDER_AT + OrderWords.shown_turn.index
_SIZE = 8 * (HEADER_WORDS + ROW_WORDS * (MAX_SHARDS + MAX_WORKERS + MAX_GATEWAYS))  # bytes
DRIFT_MS = 5
"""By how much the wall clock that all processes agree on may be away from the machine's."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The constants of a run, stored on its board.

    Attributes:
        clock_offset_ms: makes steady time of CLOCK_BOOTTIME (see `clock`).
        started_ms, started_steady_ms: the start of the run, by either clock.
        first_revision: the first that the run may give out.
        node: name of this machine in its cluster; empty: there is no cluster.
        cluster: where the cluster's order is, as addresses separated by commas.
        reads: `linear` or `local`.
        nodes: the names of the machines of the cluster, in alphabetical order, separated by commas.
        order_name, order_created_ns: which order the store follows.
        order_base: the sequence before the first message of that order, if its history began with what a machine had
            of one that was lost; 0: it did not.
    """

    version: str
    store: str
    epoch: str
    boot_id: str
    secret: int
    shards: int
    sync: str
    in_memory: bool
    data_dir: str
    lock_dir: str
    log_dir: str
    map_dir: str
    max_value: int
    max_batch: int = 32 << 20
    max_memory: int = 0  # 0: no limit
    on_full: str = "reject"
    tokens: str = ""  # path of the token file; empty: no tokens
    clock_offset_ms: int
    supervisor_pid: int
    started_ms: int
    started_steady_ms: int = 0
    first_revision: int = 1
    node: str = ""
    cluster: str = ""
    reads: str = "linear"
    nodes: str = ""
    order_name: str = ""
    order_created_ns: int = 0
    order_base: int = 0


def _with_paths(facts: Facts, change: Callable[[str], str]) -> Facts:
    return msgspec.structs.replace(
        facts,
        data_dir=change(facts.data_dir),
        lock_dir=change(facts.lock_dir),
        log_dir=change(facts.log_dir),
        map_dir=change(facts.map_dir),
        tokens=change(facts.tokens),
    )


class BoardError(Exception):
    """The board cannot be used: missing, of another version, or its log is not recovered."""


class BoardNotBelieved(BoardError):
    """Something is at the board's path, but it is not a board, or another user may have put it there."""


class BoardOutOfReach(BoardError):
    """This process cannot open the board, which may exist. Says nothing about the run."""


R = TypeVar("R", bound=ProcessRow)


class _Rows(Generic[R]):
    """Rows of one kind."""

    def __init__(self, kind: type[R], board: Board, first: int, count: int) -> None:
        self._board = board
        self._rows = [kind(board.words, HEADER_WORDS + ROW_WORDS * (first + i)) for i in range(count)]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> R:
        return self._rows[index]

    def __iter__(self) -> Iterator[R]:
        return iter(self._rows)

    def used_rows(self) -> list[tuple[int, R]]:
        """List index and row of every row that a process has ever had."""
        return [(i, row) for i, row in enumerate(self._rows) if row.starts]

    def living_rows(self) -> list[tuple[int, R]]:
        """List index and row of every row that a living process has claimed."""
        return [(i, row) for i, row in enumerate(self._rows) if row.pid and self._board.is_claimed(row)]

    def claim_row(self) -> tuple[int, R]:
        """Take a free row for this process, for life: its words but `starts` and figures are zeroed, `pid` is set.

        Raises `BoardError` if all rows are taken.
        """
        for i, row in enumerate(self._rows):
            if self._board.try_claim(row):
                starts = ProcessRow.starts.index
                row.words[row.base : row.base + starts] = memoryview(array("Q", bytes(8 * starts)))
                row.pid, row.state = os.getpid(), ProcessRow.STARTING
                row.record_heartbeat()
                return i, row
        raise BoardError(f"all {len(self._rows)} rows of the board are taken")


FETCHED: Final = "fetched"
"""The directory that is in a machine's data directory while its store is not what it should be: it must be replaced by
that of another machine of the cluster."""
STOP_NOTE: Final = "stopped"
"""The file beside the board that says why this machine of a cluster has stopped for good."""


class Board:
    """The mapped table. The supervisor makes one with `create`; every other process maps it with `open`."""

    _is_clustered = False

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self.fd = path, fd
        self._map = mmap.mmap(fd, _SIZE)
        self.words: memoryview[int] = memoryview(self._map).cast("Q")
        self.header = HeaderWords(self.words, HEADER_AT)
        self.log = LogWords(self.words, LOG_AT)
        self.exporter = ExporterWords(self.words, EXPORTER_AT)
        self.order = OrderWords(self.words, ORDER_AT)
        length = min(self.header.facts_length, _FACTS_MAX)
        self.facts = _with_paths(
            msgspec.json.decode(self._map[_FACTS_AT : _FACTS_AT + length], type=Facts), path_text.text_to_path
        )
        if not 0 < self.facts.shards <= MAX_SHARDS:
            raise ValueError(f"{self.facts.shards} shards")
        self.shards = _Rows(ShardRow, self, 0, self.facts.shards)
        self.workers = _Rows(WorkerRow, self, MAX_SHARDS, MAX_WORKERS)
        self.gateways = _Rows(GatewayRow, self, MAX_SHARDS + MAX_WORKERS, MAX_GATEWAYS)
        self._claimed: set[int] = set()
        self._made_here = False
        self._offset_ms, self._is_clustered = self.facts.clock_offset_ms, self.facts.node != ""

    @classmethod
    def create(cls, path: Path, facts: Facts) -> Board:
        """Create a board under a temporary name next to `path`, all rows empty, not yet marked recovered.

        `install` puts it in its place. The run it shows is over when this process ends or closes it.
        Raises `BoardError` if the facts are too long, `OSError` if there is no space.
        """
        encoded = msgspec.json.encode(_with_paths(facts, path_text.path_to_text))
        if len(encoded) > _FACTS_MAX:
            raise BoardError(
                f"the facts of the store take {len(encoded)} bytes, at most {_FACTS_MAX} fit: shorten the paths"
            )
        temporary = path.with_name(path.name + ".new")
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.posix_fallocate(fd, 0, _SIZE)  # a full tmpfs says so here, not by SIGBUS later
        os.pwrite(fd, array("Q", [_MAGIC, secrets.randbits(64), 0, len(encoded)]).tobytes(), 0)
        os.pwrite(fd, encoded, _FACTS_AT)
        board = cls(path, fd)
        board._made_here = locks.try_acquire_for_life(fd, _SUPERVISOR_LOCK)
        for row in board.shards:
            row.clear_open()
        board.order.lease_until = 0 if facts.node else NONE
        board.header.behind = facts.started_steady_ms - facts.started_ms + _BIAS
        return board

    def install(self) -> None:
        """Rename the new board to its place, marked recovered: from now on others can open it."""
        self.header.recovered = 1
        self.path.with_name(self.path.name + ".new").rename(self.path)

    @classmethod
    def open(cls, path: Path, believed: Collection[int] | None = None) -> Board:
        """Map the board at `path`, if it and its directory belong to one of the users `believed`.

        By default these are this user and root. Raises `BoardError` if there is no usable board, `BoardNotBelieved` if
        there is something else or another user's, `BoardOutOfReach` if that cannot be checked.
        """
        fd = _open_file(path, trusted_uids() if believed is None else believed)
        try:
            head = array("Q", os.pread(fd, 32, 0).ljust(32, b"\0"))
            if os.fstat(fd).st_size != _SIZE or head[0] != _MAGIC:
                raise BoardNotBelieved(f"{path} is not a board of this version")
            if not head[HeaderWords.recovered.index]:
                raise BoardError(f"the log of the store at {path} is not recovered")
            return cls(path, fd)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            os.close(fd)
            raise BoardNotBelieved(f"{path} is not a board of this version") from None
        except BaseException:
            os.close(fd)
            raise

    def note_stop(self, reason: str) -> None:
        """Say why this machine of a cluster has stopped for good, beside the board; empty: it has not.

        Raises `OSError`.
        """
        path = self.path.with_name(STOP_NOTE)
        if reason:
            path.write_text(reason)
        else:
            path.unlink(missing_ok=True)

    def read_stop(self) -> str:
        """Return why this machine of a cluster has stopped for good; empty: it has not."""
        try:
            return self.path.with_name(STOP_NOTE).read_text(errors="replace")
        except OSError:
            return ""

    @property
    def id(self) -> int:
        """Random number of this board; a new run of the store has another."""
        return self.header.id

    def is_over(self) -> bool:
        """Whether this run of the server has ended, so that this process must end.

        That is so if another board, or none, is at the path of this one, or if the supervisor is gone (child processes
        die with the supervisor; others must poll this).
        """
        if not self._made_here and not locks.is_held(self.fd, _SUPERVISOR_LOCK):
            return True
        try:
            fd = safe_files.open_regular(self.path)
        except FileNotFoundError:
            return True
        except OSError as error:  # no descriptor is free, for instance: that says nothing of the run
            return error.errno in (errno.EINVAL, errno.EISDIR)  # it is no file
        try:
            head = array("Q", os.pread(fd, 16, 0))
        finally:
            os.close(fd)
        return len(head) < 2 or head[1] != self.id

    def try_claim(self, row: Row) -> bool:
        """Take `row` for this process, for life; False if another living process has it."""
        if row.base in self._claimed or not locks.try_acquire_for_life(self.fd, 8 * row.base):
            return False
        self._claimed.add(row.base)
        row.resume_counters()
        row.words[row.base + ProcessRow.starts.index] += 1
        return True

    def is_claimed(self, row: Row) -> bool:
        """Whether a living process has `row`."""
        return row.base in self._claimed or locks.is_held(self.fd, 8 * row.base)

    def now(self) -> Now:
        """Read both clocks at one moment; see `clock`.

        The wall clock is at most `DRIFT_MS` away: by how much it is behind the steady one is a word that all processes
        share and only then change, so that all of them show the end of a lifetime as the same time.
        """
        if self._is_clustered:  # lifetimes count by the order's time, which is wall time
            return Now(wall_ms := _wall_ms(), wall_ms)
        while True:
            steady_ms, wall_ms = self._steady_ms(), time.time_ns() // 1_000_000
            agreed_ms = steady_ms - (self.words[_BEHIND] - _BIAS)
            if -DRIFT_MS <= agreed_ms - wall_ms <= DRIFT_MS:
                return Now(agreed_ms, steady_ms)
            wall_ms = counted_ms(wall_ms)
            if self._steady_ms() - steady_ms <= 1:  # else this process had to wait between the two clocks
                self.words[_BEHIND] = steady_ms - wall_ms + _BIAS
                return Now(wall_ms, steady_ms)

    def now_ms(self) -> int:
        """Read the wall clock: Unix time in milliseconds, within the range that counts."""
        return _wall_ms()

    def steady_ms(self) -> int:
        """Read steady time in milliseconds, which cannot be set: for durations."""
        return _wall_ms() if self._is_clustered else self._steady_ms()

    def _steady_ms(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 + self._offset_ms

    def history(self) -> tuple[int, int]:
        """Read tail (LSN) and next revision, as one append left them."""
        return self._read_pair(_TURN, LOG_AT)

    def advance(self, tail: int, next_revision: int) -> None:
        """Publish a new end of the history. Only the holder of the append lock may."""
        self._publish_pair(_TURN, LOG_AT, tail, next_revision)

    def show(self, lsn: int, revision: int) -> None:
        """Let readers see the history up to `lsn` and `revision`. Only the shard of a cluster may."""
        self._publish_pair(_SHOWN_TURN, ORDER_AT, lsn, revision)

    def _read_pair(self, turn_at: int, slots_at: int) -> tuple[int, int]:
        """Read the two words that belong together, from the slot that the word `turn_at` names."""
        words, fence = self.words, self.log.fence
        while True:
            turn = words[turn_at]
            if fence:
                fence(Fence.TURN_THEN_SLOT)
            slot = slots_at + 2 * (turn & 1)
            pair = words[slot], words[slot + 1]
            if fence:
                fence(Fence.SLOT_THEN_TURN)
            if words[turn_at] == turn:
                return pair

    def _publish_pair(self, turn_at: int, slots_at: int, first: int, second: int) -> None:
        """Write two words that belong together into the slot that is not read now, then have it read."""
        words = self.words
        turn = words[turn_at] + 1
        slot = slots_at + 2 * (turn & 1)
        words[slot], words[slot + 1] = first, second
        if self.log.fence:
            self.log.fence(Fence.RECORD_THEN_TURN)
        words[turn_at] = turn

    def last_revision(self) -> int:
        """Return the last revision of the history."""
        return self.history()[1] - 1

    def watermark(self) -> tuple[int, int]:
        """Return LSN and revision up to which everything is durable (as far as the sync mode promises) and applied.

        The one place that computes it, and the two belong together: the record at the LSN begins with the revision
        after. The history is taken first: a record in it has its `open` words set before. In a cluster it is what may
        be shown.
        """
        if self._is_clustered:
            return self._read_pair(_SHOWN_TURN, ORDER_AT)
        lsn, following = self.history()
        fence = self.log.fence
        for row in self.shards:
            while (opened := row.open) != NONE:
                revision = row.open_revision
                if fence:
                    fence(Fence.REVISION_THEN_OPEN)
                if row.open == opened:  # no two records have the same LSN, so it was this one's revision
                    if opened < lsn:
                        lsn, following = opened, revision
                    break
        if fence:
            fence(Fence.WATERMARK_THEN_MAP)
        return lsn, following - 1

    def complete_revision(self) -> int | None:
        """Return the last revision of the history, on a machine of a cluster that may show all of it; None: it may not.

        To be called after a read of a map: then the map had no more than that. The fences between the loads of the one
        pair also keep the history's from coming before the read.
        """
        shown = self._read_pair(_SHOWN_TURN, ORDER_AT)[1]
        return shown if shown >= self.last_revision() else None

    def close(self) -> None:
        """Unmap and close, which gives up claimed rows."""
        self.words.release()
        with contextlib.suppress(BufferError):  # rows handed out may still be referenced
            self._map.close()
        os.close(self.fd)


def _open_file(path: Path, believed: Collection[int]) -> int:
    """Open the board's file at `path`, which like its directory must belong to one of `believed`.

    Raises what `Board.open` raises.
    """
    try:
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _require_believed(path.parent, directory, believed)
            fd = safe_files.open_regular(Path(path.name), os.O_RDWR, directory)
        finally:
            os.close(directory)
        try:
            _require_believed(path, fd, believed)
        except BoardNotBelieved:
            os.close(fd)
            raise
        return fd
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BoardError(f"no board at {path} ({error.strerror}): is `kvserver serve` running on this store?") from None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EISDIR, errno.ELOOP):
            raise BoardNotBelieved(f"{path} is not a board: {error.strerror}") from None
        raise BoardOutOfReach(f"the board {path} cannot be opened ({error.strerror}): {what_helps(error)}") from None


def _require_believed(path: Path, fd: int, believed: Collection[int]) -> None:
    """Raise `BoardNotBelieved` if what is open as `fd` belongs to none of the users `believed`."""
    owner = os.fstat(fd).st_uid
    if owner not in believed:
        raise BoardNotBelieved(
            f"{path} belongs to {user_name(owner)}, so it is not trusted: run this as that user, or as root "
            "with the --data-dir"
        )


def _wall_ms() -> int:
    return counted_ms(time.time_ns() // 1_000_000)
