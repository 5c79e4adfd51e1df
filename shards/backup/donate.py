"""`python -m shards.backup.donate TARGET`: takes a backup of the running store, for another machine of the
cluster.

TARGET is in the data directory. All files are there once the process has ended with 0.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from shards.backup.copies import BackupError
from shards.backup.take import RunningStore, back_up
from shards.host.board import Board, BoardError
from shards.host.logs import configure_logging, report_fatal
from shards.host.process import die_with_starter, keep_standard_streams
from shards.host.settings import ProcessSettings, SettingError, load_settings
from shards.log.files import LogError
from shards.log.manifest import ManifestError
from shards.log.pins import NoPlace
from shards.log.recovery import Damaged
from shards.maps.snapshot import SnapshotError

_NICE: Final = 10  # the shard is more urgent


def donate(board: Board, target: Path) -> None:
    """Put a backup of the store into `target`, which is made. Raises what `back_up` does."""
    back_up(RunningStore(board), target, board.facts.version, lambda done, total: None, within=True)


def main() -> int:
    """Do what the command line says; return the exit status."""
    keep_standard_streams()
    die_with_starter()
    try:
        settings = load_settings(ProcessSettings)
        configure_logging(settings.log_level, "donate", settings.log_format)
        os.nice(_NICE)
        donate(Board.open(settings.board_path), Path(sys.argv[1]))
    except (
        *(SettingError, BoardError, BackupError, SnapshotError, ManifestError, LogError, NoPlace, Damaged),
        OSError,
    ) as error:
        report_fatal(f"no backup was taken for another machine: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
