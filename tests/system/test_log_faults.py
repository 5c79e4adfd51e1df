"""The log on real files, among real processes that are killed, and on disks that fail and fill up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shards.files.disk import Disk
from shards.log.appender import LogAppender
from shards.log.files import LogBroken, LogError, segment_name
from shards.log.records import DATA, Record
from shards.log.recovery import recover_log
from shards.wire.clock import Now
from tests.stores import SECRET, Store, new_store
from tests.system.appenders import payload_of
from tests.system.small_disk import SCENARIOS

SEGMENT = 128 << 10


def run_appenders(store: Store, directory: Path, deaths: int, seed: int) -> None:
    """Run the appenders beside a supervisor's duties, and look at the watermark all the while."""
    command = [sys.executable, "-m", "tests.system.appenders"]
    arguments = [str(store.board.path), str(SEGMENT), str(directory), str(deaths), str(seed)]
    with subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE) as process:
        watermark = (0, 0)
        while process.poll() is None:
            store.segments.prepare_next()
            previous, watermark = watermark, store.board.watermark()
            assert watermark[0] <= store.board.log.synced, "what is shown is flushed"
            assert previous <= watermark, "what was shown stays shown"
        assert process.stderr is not None
        errors = process.stderr.read().decode()
    assert process.returncode == 0, errors


def everything(store: Store) -> list[Record]:
    """Every record of shards, from the log's first byte to its end."""
    found: list[Record] = []
    reader, lsn = store.reader(), 0
    tail, _ = store.board.history()
    while lsn < tail:
        some, lsn = reader.read(lsn, tail)
        found += some
    return [record for record in found if record.kind == DATA]


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_appenders_lose_nothing_that_was_acknowledged(tmp_path: Path, seed: int) -> None:
    store = new_store(tmp_path, 3, segment=SEGMENT)
    directory = tmp_path / "acknowledged"
    directory.mkdir()
    run_appenders(store, directory, deaths=150, seed=seed)

    found = everything(store)
    following = 1
    for record in found:
        assert record.revision == following, "revisions go on without a gap"
        following = record.next_revision
    assert following == store.board.history()[1]
    assert len({record.payload for record in found}) == len(found), "each once"
    by_lsn = {record.lsn: record for record in found}
    count = 0
    for file in directory.iterdir():
        lines = [line.split() for line in file.read_bytes().splitlines()]
        assert [int(line[1]) for line in lines] == sorted(int(line[1]) for line in lines)
        for number, lsn, revision in lines:
            record = by_lsn[int(lsn)]
            assert (record.payload, record.revision) == (payload_of(int(file.name), int(number)), int(revision))
            count += 1
    assert count > 150

    # A start on the same boot finds the same end, or one record more, whose writer died before it showed it.
    tail, following = store.board.history()
    recovered = recover_log(store.log_dir, SECRET, 0, 0, old_board=store.board, segment=SEGMENT)
    assert recovered.tail >= tail and following <= recovered.next_revision <= following + 5
    store.close()


class DyingDisk(Disk):
    """A disk that dies behind the page cache: the kernel takes what is written to /dev/null and fails to flush it."""

    def open(self, path: Path) -> int:
        return os.open("/dev/null", os.O_RDWR) if path.name == segment_name(1) else super().open(path)


def test_a_failed_flush_is_final_for_all(tmp_path: Path) -> None:
    store = new_store(tmp_path, 2, segment=SEGMENT)
    disk = DyingDisk()
    store.board.log.ready = 2 * SEGMENT
    first, second = (LogAppender(store.board, shard, segment=SEGMENT, disk=disk) for shard in (0, 1))
    good = first.append(bytes(SEGMENT - 1024), 1, Now(1, 1))
    first.flush(good.end)
    lost = first.append(bytes(2048), 1, Now(1, 1))
    assert lost.lsn >= SEGMENT

    with pytest.raises(LogBroken):
        first.flush(lost.end)
    assert store.board.log.broken
    assert store.board.log.synced == good.end
    for log in (first, second, LogAppender(store.board, None, segment=SEGMENT, disk=disk)):
        with pytest.raises(LogBroken):
            log.append(b"", 1, Now(1, 1))
        with pytest.raises(LogBroken):
            log.flush(lost.end)
        with pytest.raises(LogBroken):
            log.flush(good.end)  # not even of what is flushed may anybody say so now
    recovered = recover_log(store.log_dir, SECRET, 0, 0, old_board=store.board, segment=SEGMENT)
    assert (recovered.tail, recovered.next_revision) == (SEGMENT, 2)
    store.close()


def test_an_append_to_a_segment_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path, 1, segment=SEGMENT)
    store.board.log.ready = 2 * SEGMENT  # but nothing is there
    log, row = LogAppender(store.board, 0, segment=SEGMENT), store.board.shards[0]
    log.append(bytes(SEGMENT - 1024), 1, Now(1, 1))
    row.clear_open()
    before = store.board.history()
    with pytest.raises(LogError, match="No such file"):
        log.append(bytes(2048), 1, Now(1, 1))
    assert store.board.history() == before
    assert row.open == row.open_revision == (1 << 64) - 1
    store.close()


@pytest.fixture(scope="module")
def namespace() -> list[str]:
    """The command that runs another where it may mount a tmpfs."""
    command = ["unshare", "-rm"]
    try:
        subprocess.run([*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no right to mount a tmpfs in a namespace ({' '.join(command)}): {error}")
    return command


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_on_a_disk_that_fills_up(namespace: list[str], tmp_path: Path, scenario: str) -> None:
    command = [*namespace, sys.executable, "-m", "tests.system.small_disk", scenario, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
