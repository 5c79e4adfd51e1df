"""A damaged log is cut knowingly: what is left is served, what was lost is said."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.backup.check import (
    check_log,
)
from shards.log.files import segment_name
from shards.log.recovery import examine_log
from shards.log.repair import cut_at_damage, give_up_below, loss_of
from tests.api.maps import Run, first_run
from tests.api.shards.backup.tools import (
    SEGMENT,
    History,
    damage,
    live_a_while,
    lived_store,
    log_file,
    manifest_of,
    several_segments,
    start,
)

HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:3000]), "the segment ends there, and not after 4096"),
    "removed": (Path.unlink, "the segment is missing"),
    "zeroed": (lambda path: path.write_bytes(bytes(4096)), "no record can be read there"),
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return lived_store(tmp_path)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("number", [0, 3])
def test_a_segment_that_is_not_whole_is_named_and_cut(tmp_path: Path, harm: str, number: int) -> None:
    run, segment = several_segments(tmp_path)
    manifest, (tail, following) = manifest_of(run), run.board.history()
    do, why = HARMS[harm]
    do(run.store.log_dir / segment_name(number))
    found = examine_log(run.store.log_dir, manifest, segment=segment)
    check = check_log(run.store.log_dir, manifest, found.fold.lsn, found, segment)
    assert not check.finding.good
    assert f"segment {segment_name(number)} at byte" in check.finding.text
    assert why in check.finding.text
    served = check_log(run.store.log_dir, manifest, tail, None, segment)
    assert not served.finding.good, "beside a server, too"

    loss = loss_of(found, manifest)
    assert loss.first <= loss.last == following - 1
    cut_at_damage(run.store.data_dir, manifest, found, segment=segment)
    mended = manifest_of(run)
    assert (mended.epoch, mended.end_revision, mended.new_history) == ("", following - 1, "the log was cut at damage")
    again = examine_log(run.store.log_dir, mended, segment=segment)
    assert again.damage is None
    assert again.fold.next_revision == loss.first
    assert check_log(run.store.log_dir, mended, again.fold.lsn, again, segment).finding.good


def test_damage_that_no_restart_needs_is_given_up_alone(run: Run, tmp_path: Path) -> None:
    manifest = manifest_of(run)
    assert not give_up_below(run.store.data_dir, manifest, 5, segment=SEGMENT), "the replay position is in there"
    assert give_up_below(run.store.data_dir, manifest, 5, segment=64)
    assert not (run.store.log_dir / segment_name(0)).exists()


def test_what_is_repaired_is_served_up_to_the_damage(tmp_path: Path) -> None:
    run, history = first_run(tmp_path / "store", segment=SEGMENT).open(), History()
    live_a_while(run, history, random.Random(1), 20)
    found, _ = run.store.reader().read(0, run.board.history()[0], 1 << 30)
    run.close_maps()
    damage(log_file(run.store.data_dir), found[12].lsn + 70)
    manifest = manifest_of(run)
    cut_at_damage(
        run.store.data_dir, manifest, examine_log(run.store.log_dir, manifest, segment=SEGMENT), segment=SEGMENT
    )
    (tmp_path / "r").mkdir()
    shutil.copytree(run.store.data_dir, tmp_path / "r" / "data")
    restored = start(tmp_path / "r" / "data", tmp_path / "r", 3)
    restored.oracle = history.oracle(found[12].revision - 1)
    restored.check()
    restored.close_maps()
