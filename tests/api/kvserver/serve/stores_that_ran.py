"""A store that has run, for tests of its next start."""

from __future__ import annotations

import shutil
from pathlib import Path

from kvserver.serve.store import Store
from kvserver.settings import ServerSettings
from shards.log.appender import LogAppender
from shards.log.files import SEGMENT
from shards.log.reader import LogReader
from shards.log.records import DATA


def settings_of(directory: Path) -> ServerSettings:
    return ServerSettings(data_dir=directory / "data", run_dir=directory / "run", map_dir=directory / "maps", shards=1)


def run_once(directory: Path, clean: bool = True) -> tuple[int, int]:
    """A run of the store that writes two records: the LSN at which the second begins, and the last revision."""
    with Store(settings_of(directory)) as store:
        log = LogAppender(store.board, 0)
        records = [log.append(b"record %d" % n, 1, store.board.now()) for n in range(2)]
        log.flush(records[-1].end)
        log.close()
        store.board.shards[0].clear_open()
        if clean:
            store.close_log()
    return records[-1].lsn, records[-1].revision


def change_revisions(store: Store) -> list[int]:
    """The revisions of the changes that the log of `store`, which has just begun a run, still holds."""
    facts = store.board.facts
    reader = LogReader(Path(facts.log_dir), facts.secret)
    records, _ = reader.read(store.board.log.oldest, store.board.history()[0])
    reader.close()
    return [record.revision for record in records if record.kind == DATA]


def forget_memory(directory: Path) -> None:
    """As another boot does: what the board and the maps say of the last flush is gone."""
    for name in ("run", "maps"):
        shutil.rmtree(directory / name)


def zero_from(directory: Path, lsn: int) -> None:
    with (directory / "data" / "log" / f"{lsn // SEGMENT:012d}.log").open("r+b") as file:
        file.seek(lsn % SEGMENT)
        file.write(bytes(4096))


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.parent.name != "locks"}
