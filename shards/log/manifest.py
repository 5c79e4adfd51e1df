"""The manifest names the store, and where a restart begins: the one file next to the log that every store has.

It is replaced as a whole, and a changed one is refused (see `checksummed_json`). The files that it names were made
durable before it; files that it does not name are not needed.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from shards.files import checksummed_json
from shards.files.checksummed_json import Checksum, Count, Lsn, Revision, StoreId, UnixMs, Words
from shards.host.board import MAX_SHARDS
from shards.log.records import Start
from shards.wire.clock import Now

FORMAT = 2
FORMATS = (1, FORMAT)
"""What is understood. Format 1 had no steady time: all its expiries are wall times."""
NAME = "manifest"
SNAPSHOTS = "snapshots"


class ManifestError(Exception):
    """The manifest cannot be used; the message names the file, says why and what can be done."""


class NoManifest(ManifestError):
    """There is no manifest, so no store, in this directory."""


SnapshotName = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}-[0-9a-f]{8}/shard-(0|[1-9][0-9]{0,2})\.mdb\Z")]
"""The rule for names that are used as paths: exactly what `take_snapshot` makes. So no manifest, not even that of a
forged backup, can name a file outside of the directory of snapshots."""


class SnapshotFile(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of one shard's map.

    Attributes:
        name: path below the directory of snapshots: `0000000000001a00-4be0d1c2/shard-0.mdb`.
        shard, shards: whose keys it holds: those of shard `shard` among `shards`.
        lsn, revision: up to where the log is applied to it. At or above the manifest's replay position.
        size: in bytes.
        checksum: `snapshot.checksum` of it.
    """

    name: SnapshotName
    shard: Annotated[int, Meta(ge=0, lt=MAX_SHARDS)]
    shards: Annotated[int, Meta(ge=1, le=MAX_SHARDS)]
    lsn: Lsn
    revision: Revision
    size: Count
    checksum: Checksum


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a store is, and where its restart begins.

    Attributes:
        format: version of the files in the data directory.
        store: the store's id, 32 hex digits, for life.
        secret: 64 bits that seed the checksums of log and snapshots, so that no foreign bytes pass for its own.
        device, inode: of the data directory when this was written; another inode means that the store is a copy.
        epoch: name of the history when this was written; empty before the first.
        last_start: of the run in which this was written: the log after the replay position may not hold it any more.
        replay_lsn, replay_revision: where replay begins: everything up to there is in `files`.
        files: the snapshot, one file for each shard there was; empty: no snapshot, replay starts at an empty store.
        end_lsn, end_revision: where the history ended, durably, when this was written (at a start, a snapshot, an
            orderly stop): a log that ends before has lost something; no revision up to there is ever given out again.
        end_wall_ms, end_steady_ms: the time of that end, by either clock; 0: not known.
        new_history: why the next start must begin a new history, in words; empty: nothing here demands it.
    """

    format: int
    store: StoreId
    secret: int
    device: int
    inode: int
    epoch: Words = ""
    last_start: Start | None = None
    replay_lsn: Lsn = 0
    replay_revision: Revision = 0
    files: tuple[SnapshotFile, ...] = ()
    end_lsn: Lsn = 0
    end_revision: Revision = 0
    end_wall_ms: UnixMs = 0
    end_steady_ms: UnixMs = 0
    new_history: Words = ""

    def __post_init__(self) -> None:
        """Raise ValueError for members that do not go together; a decoder makes `msgspec.ValidationError` of it."""
        if not all(0 <= number < 1 << 64 for number in (self.secret, self.device, self.inode)):
            raise ValueError("secret, device and inode are whole numbers of 64 bits")
        if self.files and sorted(file.shard for file in self.files) != list(range(self.files[0].shards)):
            raise ValueError("the snapshot does not have one file for each shard")
        if len({file.shards for file in self.files}) > 1 or len({file.name for file in self.files}) < len(self.files):
            raise ValueError("files of the snapshot have the same name, or are of another number of shards")
        self._compare_positions()

    def _compare_positions(self) -> None:
        """Raise ValueError for positions that no history has."""
        for what, replay, end in (
            ("byte", self.replay_lsn, self.end_lsn),
            ("revision", self.replay_revision, self.end_revision),
        ):
            if replay > end:
                raise ValueError(f"a restart would begin at {what} {replay}, after the end of the history, {end}")
        if not self.files and (self.replay_lsn or self.replay_revision):
            raise ValueError(f"a restart would begin at byte {self.replay_lsn}, but there is no snapshot of that place")

    @property
    def end_now(self) -> Now:
        """The time of the history's end."""
        return Now(self.end_wall_ms, self.end_steady_ms)

    @classmethod
    def create(cls, data_dir: Path) -> Manifest:
        """Make the manifest of a new store in `data_dir`, not yet saved. Raises `OSError` if the directory cannot be
        read.
        """
        status = data_dir.stat()
        return cls(
            format=FORMAT,
            store=secrets.token_hex(16),
            secret=secrets.randbits(64),
            device=status.st_dev,
            inode=status.st_ino,
        )

    @classmethod
    def load(cls, data_dir: Path) -> Manifest:
        """Load the manifest of the store in `data_dir`. Raises `NoManifest` if there is no store, `ManifestError` if
        its manifest cannot be used.
        """
        path = data_dir / NAME
        try:
            text = checksummed_json.read(path)
        except FileNotFoundError:
            raise NoManifest(f"there is no store in {data_dir}") from None
        except OSError as error:
            raise ManifestError(f"the manifest {path} cannot be read: {error.strerror}") from None
        try:
            content = checksummed_json.decode(text, cls, FORMATS)
        except checksummed_json.Unreadable as error:
            raise ManifestError(
                f"the manifest {path} is damaged ({error}): restore the data directory from a backup"
            ) from None
        if isinstance(content, int):
            raise ManifestError(
                f"the store in {data_dir} has format {content}, this program knows up to {FORMAT}: use the program "
                "that wrote it"
            )
        return msgspec.structs.replace(content, format=FORMAT)  # as it is saved next

    def save(self, data_dir: Path) -> None:
        """Replace the last manifest by this one, durably. Raises `OSError`; then the last one may still be there."""
        checksummed_json.write(self, data_dir / NAME, data_dir / (NAME + ".new"))

    @property
    def snapshot_bytes(self) -> int:
        """Bytes of the snapshot's files."""
        return sum(file.size for file in self.files)
