"""The start of a run: damage is found, a crash is survived, a history continues or a new one begins."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvserver.serve.store import Store, StoreError
from shards.log.manifest import Manifest
from shards.log.recovery import begin_history
from tests.api.kvserver.serve.stores_that_ran import (
    change_revisions,
    contents,
    forget_memory,
    run_once,
    settings_of,
    zero_from,
)


def lose_log_dir(data: Path) -> None:
    shutil.rmtree(data / "log")


def lose_segment(data: Path) -> None:
    (data / "log" / "000000000000.log").unlink()


def cut_segment(data: Path) -> None:
    os.truncate(data / "log" / "000000000000.log", 5000)


def change_manifest(key: str) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        path = data / "manifest"
        content = msgspec.json.decode(path.read_bytes())
        content[key] = content[key] + 1 if isinstance(content[key], int) else "f" * 32
        path.write_bytes(msgspec.json.encode(content))

    return change


LOSSES = {
    "log directory": (lose_log_dir, r"segment 000000000000.log at byte 0: the segment is missing; restore .*backup"),
    "segment": (lose_segment, r"segment 000000000000.log at byte 0: the segment is missing; restore .*backup"),
    "part of a segment": (cut_segment, r"segment 000000000000.log at byte 5000: the segment ends there.*restore"),
    **{
        key: (change_manifest(key), r"the manifest .*/data/manifest is damaged .*restore .*backup")
        for key in ("secret", "store", "replay_lsn", "end_lsn")
    },
}


@pytest.mark.parametrize("lost", LOSSES)
def test_a_store_that_lost_something_is_not_taken_for_a_new_one(tmp_path: Path, lost: str) -> None:
    run_once(tmp_path)
    forget_memory(tmp_path)
    lose, says = LOSSES[lost]
    lose(tmp_path / "data")
    before = contents(tmp_path / "data")
    for _ in range(2):
        with pytest.raises(StoreError, match=says):
            Store(settings_of(tmp_path))
        assert contents(tmp_path / "data") == before, "nothing is touched"


@pytest.mark.parametrize("clean", [True, False])
def test_a_lost_tail_is_damage_after_a_stop_and_torn_after_a_crash(tmp_path: Path, clean: bool) -> None:
    lsn, revision = run_once(tmp_path, clean)
    forget_memory(tmp_path)
    zero_from(tmp_path, lsn)
    if clean:
        with pytest.raises(StoreError, match=f"segment 000000000000.log at byte {lsn}"):
            Store(settings_of(tmp_path))
    else:
        with Store(settings_of(tmp_path)) as store:
            assert change_revisions(store)[-1] == revision - 1


def test_a_stop_whose_note_was_not_written_is_a_stop(tmp_path: Path) -> None:
    run_once(tmp_path, clean=False)
    manifest = (tmp_path / "data" / "manifest").read_bytes()
    _, revision = run_once(tmp_path)
    (tmp_path / "data" / "manifest").write_bytes(manifest)
    with Store(settings_of(tmp_path)) as store:
        assert change_revisions(store)[-1] == revision


def test_a_new_history_begins_above_every_revision_that_was_known(tmp_path: Path) -> None:
    run_once(tmp_path)
    data = tmp_path / "data"
    known = 1 << 52
    manifest = Manifest.load(data)
    msgspec.structs.replace(manifest, end_revision=known, inode=manifest.inode + 1).save(data)  # a copy
    with Store(settings_of(tmp_path)) as store:
        assert store.board.last_revision() >= known
        assert Manifest.load(data).end_revision == store.board.last_revision()


def test_the_store_s_clock_is_right_however_long_it_takes_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*given: Any) -> tuple[int, int]:
        begun = begin_history(*given)
        time.sleep(0.05)
        return begun

    monkeypatch.setattr("kvserver.serve.bringup.begin_history", slowly)
    with Store(settings_of(tmp_path)) as store:
        before = time.time_ns() // 1_000_000
        shown = store.board.now_ms()
        assert before - 1 <= shown <= time.time_ns() // 1_000_000 + 1
        assert store.board.facts.started_ms <= shown
