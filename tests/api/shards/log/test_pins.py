"""A pin on the log keeps what a backup reads from being trimmed."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvserver.serve.watch.housekeeping import Housekeeping
from shards.log.pins import NoPlace, pin_log, pinned_lsns
from tests.api.maps import first_run, put


def test_there_is_an_end_to_backups_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.log.pins.PLACES", 1)
    with pin_log(tmp_path), pytest.raises(NoPlace), pin_log(tmp_path):
        pass


def test_nothing_that_a_backup_needs_is_trimmed(tmp_path: Path) -> None:
    segment = 4096
    run = first_run(tmp_path / "store", shards=1, segment=segment)
    for n in range(30):
        run.store.segments.prepare_next()
        run.log(put(b"k", b"%d" % n * 300))
    tail, _ = run.board.history()
    keeping = Housekeeping(run.board, run.store.segments, retention=0, replay_lsn=tail)

    def oldest() -> int:
        keeping._trim_log()
        assert keeping._expendable_lsn() == min([tail, *pinned_lsns(run.store.data_dir / "locks")])
        return run.board.log.oldest

    with pin_log(run.store.data_dir / "locks") as whole:
        assert oldest() == 0
        with pin_log(run.store.data_dir / "locks") as part:
            whole.keep_from(3 * segment)
            part.keep_from(5 * segment)
            assert oldest() == 3 * segment
        whole.keep_from(4 * segment)
        assert oldest() == 4 * segment
    assert oldest() == tail - tail % segment
