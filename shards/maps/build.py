"""Gives a shard its map: keeps the last one, or builds one from the snapshot, then replays the log.

- **Restart of a shard** (the board names a map of this run): LMDB left the last commit, so all that can be missing is
  the record in the row's open words. The log is flushed first: nothing is shown before it is durable.
- **Start of the server**: a map of the same boot, store, epoch and number of shards is kept if the log still reaches
  back to what is applied to it, and the log is replayed from there.
- Else it is **built**: the shard's own file of the snapshot, or, if the snapshot has another number of shards, its
  slots out of all files, and then the log from the manifest's position. Always by slot: the writer
  of a record need not own its keys today. An event is skipped up to what is applied to the file that its key came from.

A map is built under a temporary name, gets its identity last, and is renamed in; only then does the board name it.

What cannot be kept goes before anything is built, so that old and new never have to fit side by side: maps are a view,
and snapshot and log, of which they are one, are in the data directory.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from shards.host.board import NONE, Board, ShardRow
from shards.log.appender import LogAppender
from shards.log.files import LogError, Trimmed
from shards.log.manifest import Manifest, SnapshotFile
from shards.log.reader import LogReader
from shards.log.records import HEADER, ORDER, START
from shards.maps.layout import FORMAT, Identity, MapError, MapFull, MetaReader, map_generations, map_path, read_meta
from shards.maps.owner import NOT_MINE, MapOwner
from shards.maps.snapshot import Snapshot, SnapshotError
from shards.maps.space import free_bytes
from shards.wire.errors import NO_SPACE
from shards.wire.keys import SLOTS, slots_of

_BATCH = 4 << 20  # bytes of log or snapshot in one transaction
_BALLAST_NAME = re.compile(r"shard-([0-9]{1,3})\.ballast")

log = logging.getLogger(__name__)


class MapBuildError(Exception):
    """A map cannot be opened or built; the message says why, and what to do."""


def open_map(board: Board, shard: int, *, follows_order: bool = False) -> MapOwner:
    """Open the map of `shard`, with everything applied that the log holds of its keys. `follows_order`: see `MapOwner`.

    Only the process that holds the shard's lock for life may. Flushes the log; keeps, builds and removes maps in the
    map directory; beats the row's heart, sets its `map_generation`, clears its open words.

    Raises `MapBuildError`, `MapFull` if there is no room, `LogError` if the log cannot be flushed or read.
    """
    return _MapOpening(board, shard, follows_order=follows_order).run()


def kept_applied(map_dir: Path, store: str, boot_id: str, epoch: str, look: MetaReader = read_meta) -> list[int]:
    """Return, for each map of this history that this boot left in `map_dir`, the LSN up to which it is applied.

    What was applied had been in the log. `look`: `Sandbox.read_meta` where a torn map must not end this process.
    """
    found = []
    for shard, generation in map_generations(map_dir):
        with contextlib.suppress(MapError):
            identity, (lsn, _) = look(map_path(map_dir, shard, generation))
            if identity and (identity.store, identity.boot_id, identity.epoch) == (store, boot_id, epoch):
                found.append(lsn)
    return found


def discard_maps(board: Board, look: MetaReader = read_meta) -> None:
    """Remove the maps that no shard of the run that `board` begins can keep, and leftovers of builds and removals.

    These are maps of another run's history, boot or number of shards, and maps that the log does not reach.

    Call it while no shard runs, after the log was recovered. What cannot be removed is left. `look`: see
    `kept_applied`.
    """
    map_dir, tail = Path(board.facts.map_dir), board.history()[0]
    kept = set()
    for shard, generation in map_generations(map_dir):
        path = map_path(map_dir, shard, generation)
        with contextlib.suppress(MapError):
            identity, (lsn, _) = look(path)
            if identity == identity_of(board, shard) and board.log.oldest <= lsn <= tail:
                kept.add(shard)
                continue
        _remove_map(path)
    for path in [*map_dir.glob("shard-*.new"), *map_dir.glob("shard-*.old")]:
        shutil.rmtree(path, ignore_errors=True)
    for path in map_dir.glob("shard-*.ballast"):
        name = _BALLAST_NAME.fullmatch(path.name)
        if name and int(name[1]) not in kept:
            path.unlink(missing_ok=True)


def discard_all_maps(map_dir: Path) -> None:
    """Remove all maps in `map_dir`: the store is new, or its log was replaced. What cannot be removed is left."""
    for shard, generation in map_generations(map_dir):
        _remove_map(map_path(map_dir, shard, generation))


def identity_of(board: Board, shard: int) -> Identity:
    """Return the identity of a map of `shard` in the run that `board` shows."""
    facts = board.facts
    return Identity(
        format=FORMAT, store=facts.store, epoch=facts.epoch, boot_id=facts.boot_id, shard=shard, shards=facts.shards
    )


def _remove_map(path: Path) -> None:
    """Remove a map. Rename it first, so that a late reader cannot create files in a directory being deleted."""
    old = path.with_name(path.name + ".old")
    with contextlib.suppress(OSError):
        path.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def fill(
    new: MapOwner, snapshot: Snapshot, files: Sequence[SnapshotFile], mine: range, beat: Callable[[], object]
) -> Sequence[int]:
    """Put the keys of the slots `mine` out of `files` into `new`; return the floors for the replay. Calls `beat` now
    and then.

    Raises `SnapshotError`, `MapFull`.
    """
    floors = [0 if slot in mine and not files else NOT_MINE for slot in range(SLOTS)]
    for file in files:
        slots = slots_of(file.shard, file.shards)
        for slot in range(max(mine.start, slots.start), min(mine.stop, slots.stop)):
            floors[slot] = file.revision
        for rows in snapshot.read(file, mine):
            new.load(rows)
            beat()
        for rows in snapshot.read_outcomes(file, mine):
            new.load_outcomes(rows)
            beat()
    return floors


class _MapOpening:
    """One call of `open_map`."""

    def __init__(self, board: Board, shard: int, *, follows_order: bool) -> None:
        facts = board.facts
        self._follows_order = follows_order
        self._board, self._shard, self._row = board, shard, board.shards[shard]
        self._map_dir, self._data_dir = Path(facts.map_dir), Path(facts.data_dir)
        self._ballast = self._map_dir / f"shard-{shard}.ballast"
        self._new = self._map_dir / f"shard-{shard}.new"
        self._identity = identity_of(board, shard)
        self._mine = slots_of(shard, facts.shards)
        self._reader = LogReader(Path(facts.log_dir), facts.secret)

    def run(self) -> MapOwner:
        try:
            self._flush_log()
            found = self._reopen_after_restart() if self._row.map_generation else None
            if found is None:
                # Readers learn that there is no map, so none of them sees less than the watermark covers.
                self._row.map_generation = 0
                self._row.clear_open()
                found = self._keep_newest() or self._build_alone()
            generation, kept = found
        finally:
            self._reader.close()
        self._row.store_after_file(ShardRow.map_generation, generation)
        self._row.clear_open()
        self._remove_others(generation)
        return kept

    def _flush_log(self) -> None:
        flusher = LogAppender(self._board, None)
        try:
            flusher.flush(self._board.history()[0])
        finally:
            flusher.close()

    def _reopen_after_restart(self) -> tuple[int, MapOwner] | None:
        generation = self._row.map_generation
        found = self._open_own(generation)
        if found is None:
            log.warning("the map of shard %d is no longer usable", self._shard)
            return None
        try:
            if self._row.open != NONE:
                self._replay_log(found, self._row.open, self._floors_at(found.applied[1]))
        except MapError as error:
            log.warning("the map of shard %d is no longer usable: %s", self._shard, error)
            found.close()
            return None
        return generation, found

    def _keep_newest(self) -> tuple[int, MapOwner] | None:
        """Open the newest map that an earlier run of this history left, and replay the log."""
        tail, _ = self._board.history()
        kept = []
        for shard, generation in map_generations(self._map_dir):
            with contextlib.suppress(MapError):
                if shard == self._shard:
                    _, (lsn, revision) = read_meta(map_path(self._map_dir, shard, generation))
                    if self._board.log.oldest <= lsn <= tail and self._log_continues(lsn, revision):
                        kept.append((lsn, generation))
        for lsn, generation in sorted(kept, reverse=True):
            found = self._open_own(generation)
            if found is None:
                continue
            if found.storage.full:  # its free pages are no use to large values; rebuilt, it has none
                found.close()
                shutil.rmtree(map_path(self._map_dir, self._shard, generation))
                continue
            try:
                self._replay_log(found, lsn, self._floors_at(found.applied[1]))
            except (Trimmed, MapError) as error:
                log.warning("the map of shard %d is not kept: %s", self._shard, error)
                found.close()
                continue
            log.debug("shard %d keeps its map, replayed %d bytes", self._shard, tail - lsn)
            return generation, found
        return None

    def _log_continues(self, lsn: int, revision: int) -> bool:
        """Whether the log continues a map that is applied up to there.

        It does not if the data directory was put back to an older copy: then the map is of a run that the log does not
        know.
        """
        tail, following = self._board.history()
        try:
            found, _ = self._reader.read(lsn, tail, HEADER)
        except LogError:
            return False
        if not found:
            return following == revision + 1
        return found[0].revision == revision + 1 or (found[0].kind == START and found[0].revision > revision)

    def _open_own(self, generation: int) -> MapOwner | None:
        """Open the map of `generation` if it exists and is this shard's."""
        path = map_path(self._map_dir, self._shard, generation)
        try:
            read_meta(path)
            found = MapOwner(path, self._ballast, follows_order=self._follows_order)
        except MapError as error:
            log.warning("%s", error)
            return None
        if found.identity() != self._identity:
            found.close()
            return None
        return found

    def _build_alone(self) -> tuple[int, MapOwner]:
        """Build a map after the old ones are removed. Raises `MapFull`, which says what to do; then nothing is left."""
        self._remove_others(0)
        self._ballast.unlink(missing_ok=True)
        try:
            return self._build_map()
        except (MapFull, OSError) as error:
            if isinstance(error, OSError) and error.errno not in NO_SPACE:
                raise
            shutil.rmtree(self._new, ignore_errors=True)
            raise MapFull(
                f"there is no room to build the map of shard {self._shard} in {self._map_dir}, where "
                f"{free_bytes(self._map_dir) >> 20} MiB are free without it: make room there (docker: --shm-size), or "
                f"name a directory with more room with --map-dir ({error})"
            ) from None

    def _build_map(self) -> tuple[int, MapOwner]:
        """Build a map. Begin again if a new snapshot replaces the one that is being read."""
        while True:
            manifest = None if self._board.facts.in_memory else Manifest.load(self._data_dir)
            try:
                return self._build_from(manifest)
            except (Trimmed, SnapshotError) as error:
                if manifest is None or Manifest.load(self._data_dir) == manifest:
                    raise MapBuildError(
                        f"the map of shard {self._shard} cannot be built: {error}; restore the store from a backup"
                    ) from None

    def _build_from(self, manifest: Manifest | None) -> tuple[int, MapOwner]:
        path = self._new
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700)
        snapshot = Snapshot(self._data_dir, manifest) if manifest else None
        files = snapshot.files_of(self._mine) if snapshot else []
        own = next((f for f in files if (f.shard, f.shards) == (self._shard, self._identity.shards)), None)
        if snapshot and own:
            snapshot.copy(own, path / "data.mdb")
        with contextlib.closing(MapOwner(path, follows_order=self._follows_order)) as new:
            if own:
                floors = self._floors_at(own.revision)
            elif snapshot and files:
                floors = fill(new, snapshot, files, self._mine, self._row.record_heartbeat)
            else:
                floors = self._floors_at(0)
            begin = manifest.replay_lsn if manifest else 0
            self._replay_log(new, begin, floors)
            tail, following = self._board.history()
            new.identify(self._identity, tail, following - 1)
        generation = secrets.randbits(62) + 1
        path.rename(map_path(self._map_dir, self._shard, generation))
        log.debug("shard %d has built its map, replayed %d bytes", self._shard, tail - begin)
        path = map_path(self._map_dir, self._shard, generation)
        return generation, MapOwner(path, self._ballast, follows_order=self._follows_order)

    def _replay_log(self, target: MapOwner, lsn: int, floors: Sequence[int] | None) -> None:
        """Apply what the log holds from `lsn` to its tail."""
        tail, _ = self._board.history()
        while lsn < tail:
            records, lsn = self._reader.read(lsn, tail, _BATCH)
            target.apply([record for record in records if record.events or record.kind in (START, ORDER)], floors)
            self._row.record_heartbeat()

    def _floors_at(self, revision: int) -> Sequence[int] | None:
        """Return the floors of a map to whose own slots everything up to `revision` is applied."""
        if len(self._mine) == SLOTS:
            return None
        return [revision if slot in self._mine else NOT_MINE for slot in range(SLOTS)]

    def _remove_others(self, kept: int) -> None:
        """Remove the shard's other maps."""
        for shard, generation in map_generations(self._map_dir):
            if shard == self._shard and generation != kept:
                _remove_map(map_path(self._map_dir, shard, generation))
