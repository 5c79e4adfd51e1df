"""Cuts a damaged log knowingly: everything after the damage is given up, and the next start begins a new history.

A manifest cannot be repaired, for its secret is in no other place, and neither can a snapshot.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from shards.files.disk import DISK
from shards.log.files import SEGMENT, segment_name, segment_numbers
from shards.log.manifest import Manifest
from shards.log.recovery import Examined, recover_log


class Loss(NamedTuple):
    """What a cut gives up: the revisions `first` to `last`, as far as known; none if `last` is below `first`."""

    first: int
    last: int


def loss_of(found: Examined, manifest: Manifest) -> Loss:
    """Return what a cut gives up, where the log is as `found`."""
    behind = [record.next_revision - 1 for record in found.behind]
    return Loss(found.fold.next_revision, max([manifest.end_revision, *behind]))


def cut_at_damage(data_dir: Path, manifest: Manifest, found: Examined, *, segment: int = SEGMENT) -> None:
    """Cut the log of the stopped store in `data_dir` at its damage, durably. The snapshot stays, and what it has.

    The caller holds the store. May be killed and called again. Raises `OSError`.
    """
    end = recover_log(
        data_dir / "log",
        manifest.secret,
        manifest.replay_lsn,
        manifest.replay_revision,
        last_start=manifest.last_start,
        end_lsn=manifest.end_lsn,
        repair=True,
        segment=segment,
    )
    msgspec.structs.replace(
        manifest,
        epoch="",
        end_lsn=end.tail,
        end_revision=max(loss_of(found, manifest).last, end.next_revision - 1),
        new_history="the log was cut at damage",
    ).save(data_dir)


def give_up_below(data_dir: Path, manifest: Manifest, lsn: int, *, segment: int = SEGMENT) -> bool:
    """Remove the segments up to the one with the damage at `lsn`, durably, if no restart needs them; whether they were.

    The caller holds the store. Raises `OSError`.
    """
    log_dir, number = data_dir / "log", lsn // segment
    if (number + 1) * segment > manifest.replay_lsn:
        return False
    for doomed in [n for n in segment_numbers(DISK.names(log_dir)) if n <= number]:
        DISK.unlink(log_dir / segment_name(doomed))
        DISK.sync_directory(log_dir)
    return True
