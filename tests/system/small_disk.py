"""What the log does on a disk that fills up: `unshare -rm python -m tests.system.small_disk SCENARIO DIR`.

Mounts a tmpfs of a few MiB over DIR, in a namespace of its own, and puts the log of a store there.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shards.host.board import NONE
from shards.log.appender import LogAppender
from shards.log.files import LogError, LogFull
from shards.log.records import DATA
from shards.log.recovery import recover_log
from shards.wire.clock import Now
from tests.stores import SECRET, Store, new_store
from tests.system.harness import Server, wait_for

MiB = 1 << 20


def small_store(directory: Path, size: int, segment: int) -> Store:
    """A store whose log is on a file system of `size` bytes; its first segment is sparse."""
    small = directory / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(small)], check=True)
    return new_store(directory, 1, segment=segment, log_dir=small / "log")


def enlarge(store: Store) -> None:
    """Make room on the store's file system: recovery clears what the sparse segment has not got yet."""
    subprocess.run(["mount", "-o", f"remount,size={64 * MiB}", str(store.log_dir.parent)], check=True)


def append_what_does_not_fit(directory: Path) -> None:
    """The last bytes of a record do not fit: the append is refused, and nothing of it is ever found."""
    store = small_store(directory, 4 * MiB, 16 * MiB)
    log, row = LogAppender(store.board, 0, segment=16 * MiB), store.board.shards[0]
    taken: list[bytes] = []
    with pytest.raises(LogError, match="could not be written"):
        while True:
            payload = b"%d" % len(taken) + bytes(MiB)  # ends with what the segment holds already
            before = store.board.history()
            record = log.append(payload, 1, Now(1, 1))
            log.flush(record.end)
            row.clear_open()
            taken.append(payload)
    assert len(taken) == 3
    assert store.board.history() == before, "nothing was appended"
    assert row.open == row.open_revision == NONE
    assert not store.board.log.broken

    record = log.append(b"small", 1, Now(1, 1))  # where the other began
    log.flush(record.end)
    tail, following = store.board.history()
    found, _ = store.reader().read(0, tail, 16 * MiB)
    assert [r.payload for r in found if r.kind == DATA] == [*taken, b"small"]
    enlarge(store)
    recovered = recover_log(store.log_dir, SECRET, 0, 0, old_board=store.board, segment=16 * MiB)
    assert (recovered.tail, recovered.next_revision) == (tail, following)


def refused_is_not_found_after_a_crash(directory: Path) -> None:
    """As above, but nothing comes after it before a recovery."""
    store = small_store(directory, 3 * MiB, 16 * MiB)
    log = LogAppender(store.board, 0, segment=16 * MiB)
    with pytest.raises(LogError, match="could not be written"):
        log.append(b"refused" + bytes(4 * MiB), 1, Now(1, 1))
    start, _ = store.board.history()
    enlarge(store)
    assert recover_log(store.log_dir, SECRET, 0, 0, segment=16 * MiB).tail == start


def fill_a_segment(directory: Path) -> None:
    """No space for another segment: `full`; the rest of the last one can be used; then waiting is over at once."""
    store = small_store(directory, 6 * MiB, 2 * MiB)
    ballast = store.log_dir / "ballast"
    log, words = LogAppender(store.board, 0, segment=2 * MiB), store.board.log
    assert store.segments.prepare_next(), "one segment ahead of the first"
    ballast.write_bytes(bytes(MiB))
    for _ in range(2):
        log.append(bytes(2 * MiB - 4096), 1, Now(1, 1))
    assert not words.full
    assert not store.segments.prepare_next()
    assert words.full and words.log_full_since_ms
    log.append(b"a delete", 1, Now(1, 1))
    before = store.board.history()
    with pytest.raises(LogFull):
        log.append(bytes(MiB), 1, Now(1, 1))
    assert store.board.history() == before
    ballast.unlink()
    enlarge(store)
    assert store.segments.prepare_next()
    assert not words.full
    log.append(bytes(MiB), 1, Now(1, 1))


def a_server_whose_disk_fills_up(directory: Path) -> None:
    """More data than a snapshot has room for: refused until enough is deleted. Less: only the log is trimmed."""
    small = directory / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={200 * MiB}", "tmpfs", str(small)], check=True)
    value = bytes(2 * MiB)
    with Server(small / "data", "--shards", "1", "--workers", "1", "--sync", "os") as server, server.client() as client:
        kept = 0
        while client.put(f"/kept{kept}", content=value).status_code == 200:
            kept += 1
        assert client.put("/kept", content=value).status_code == 507
        assert kept > 40

        assert client.delete("/keys").status_code == 200
        wait_for(lambda: client.put("/a", content=value).status_code == 200, "writes after all was deleted")
        for n in range(120):  # more than the disk holds
            last = b"%d" % n + value
            wait_for(lambda last=last: client.put("/a", content=last).status_code == 200, "writes go on")
        assert "feed clients that are further behind must start over" in server.log()
        server.stop()
        server.start()
        with server.client() as again:
            assert again.get("/keys").json() == ["a"]
            assert again.get("/a").content == last


SCENARIOS = {
    function.__name__: function
    for function in (
        append_what_does_not_fit,
        refused_is_not_found_after_a_crash,
        fill_a_segment,
        a_server_whose_disk_fills_up,
    )
}

if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](Path(sys.argv[2]))
