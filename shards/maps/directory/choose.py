"""Chooses, locks and cleans the directory of the maps.

Best in memory: a directory of the store's own under /dev/shm. It holds the maps, a `lock` for life that the supervisor
takes, and `owner`, which names the data directory it is a view of. A directory left behind there is removed by the
next server that starts, but only if its lock is free and the store named in it is not in its data directory any more: a
store that is merely stopped keeps its maps, which makes its next start short.

Nothing is removed but what a server has put there, see `contents`: a directory that holds anything else, at whatever
depth, is refused, whatever its `owner` file says, which can be forged.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import msgspec

from shards.files import locks
from shards.files.path_text import text_to_path
from shards.files.safe_files import open_regular
from shards.files.trusted_path import Planted, trusted_about, trusted_uids
from shards.host.logs import print_error
from shards.maps.directory.contents import LOCK, Contents
from shards.maps.directory.ownership import MapDirError, Owner, foreign_names, is_in_memory, read_owner
from shards.maps.space import free_bytes
from shards.wire.errors import what_helps

SHM = Path("/dev/shm")
MIN_FREE_BYTES = 256 << 20
"""Bytes that must be free besides twice the last snapshot."""

ON_DISK = "maps"
"""The map directory's name in the data directory."""

_LOCK_S = 1.0  # the locks of a killed server are not all free at the same moment


class MapDir:
    """A map directory that this process has locked. `notice` warns the operator of something unusual, or is ''."""

    def __init__(self, path: Path, lock: int, owner: Owner, notice: str) -> None:
        self.path, self.notice = path, notice
        self._lock, self._owner = lock, owner

    def remove(self) -> None:
        """Remove the directory with all maps, if it still exists, and unlock it. Foreign files in it stay. Raises
        `OSError`.
        """
        try:
            with Contents(self.path, [os.getuid()]) as found:
                if found.holds(self._lock):
                    found.remove(self._owner.data_dir is None)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENOTEMPTY, errno.EEXIST):
                raise
        self.close()

    def leave(self) -> None:
        """Unlock the directory. The maps stay for the next start, unless the store is no longer in its data
        directory.
        """
        if self._owner.exists():
            self.close()
        else:
            self.remove()

    def close(self) -> None:
        """Unlock the directory; the maps stay."""
        os.close(self._lock)


def choose_map_dir(
    wanted: Path | None, data_dir: Path | None, store: str, snapshot_bytes: int = 0, shm: Path = SHM
) -> MapDir:
    """Find, make and lock the map directory of the store with the id `store`.

    `wanted` is what the operator said, taken as it is; otherwise it is a directory under `shm`, or, where less than
    256 MiB and twice the last snapshot (`snapshot_bytes`) are free there, or not as much as the maps took, one in
    `data_dir`. A store in memory
    (`data_dir` None) starts with an empty directory, and not at all where there is too little room.
    Removes stale directories under `shm`, and the store's own in the place that was not chosen.

    Raises `MapDirError`.
    """
    try:
        return _choose_place(wanted, data_dir, Owner.of(store, data_dir), snapshot_bytes, shm)
    except OSError as error:
        place = error.filename or wanted or shm
        raise MapDirError(
            f"the directory of the maps cannot be used: {place}: {error.strerror}: {what_helps(error)}, or name "
            "another with --map-dir"
        ) from None


def release_all(shm: Path = SHM) -> int:
    """Remove from `shm` this user's maps without a store or server, and return how many bytes that frees.

    These are maps whose store is no longer in its data directory, or was in memory, and that no server uses.
    """
    return _remove_stale(shm)


def release_maps(places: Iterable[Path], store: str, data_dir: Path) -> int:
    """Remove the maps of the stopped store `store` from those of `places` that hold any; how many bytes that frees.

    The next start builds them again. Raises `MapDirError` if a server uses them, `OSError`.
    """
    owner, freed = Owner.of(store, data_dir), 0
    for path in places:
        try:
            freed += _release_map_dir(path, owner, trusted_about(data_dir))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except Planted as error:
            print_error(f"no maps are freed there: {error}")
    return freed


def _release_map_dir(path: Path, owner: Owner, believed: Collection[int]) -> int:
    """Remove the maps in `path` if they are `owner`'s, and `path` belongs to one of `believed`; return how many bytes
    that frees.
    """
    with Contents(path, believed) as found:
        if read_owner(found) != owner:
            return 0
        lock = _lock_directory(found)
        try:
            freed = found.taken()
            found.empty(in_memory=False)
        finally:
            os.close(lock)
        if path.name in (_directory_name(owner), ON_DISK):  # else the operator has made it
            with contextlib.suppress(OSError):
                found.remove(in_memory=False)
    return freed


def usual_places(store: str, data_dir: Path, shm: Path = SHM) -> list[Path]:
    """Return where the maps of a store are, unless the operator says otherwise."""
    return [shm / _directory_name(Owner.of(store, data_dir)), data_dir / ON_DISK]


def _choose_place(wanted: Path | None, data_dir: Path | None, owner: Owner, snapshot_bytes: int, shm: Path) -> MapDir:
    if wanted is not None:
        return _take_directory(wanted.absolute(), owner, _space_warning(wanted, snapshot_bytes))
    in_shm = shm / _directory_name(owner)
    _remove_stale(shm, owner)
    on_disk = None if data_dir is None else data_dir / ON_DISK
    need, free = _bytes_wanted(snapshot_bytes, in_shm, on_disk), _bytes_available(shm, in_shm)
    if free >= need:
        chosen = _take_directory(in_shm, owner, "", reserved=True)
        if on_disk is not None:
            _give_up(on_disk, owner)
        return chosen
    few = f"only {free >> 20} MiB are free in {shm}, the maps need {need >> 20} MiB"
    if not _may_write(shm):
        few = f"this user cannot write to {shm}"
    if on_disk is None:
        raise MapDirError(f"{few}: make it larger (docker: --shm-size), or name another directory with --map-dir")
    _give_up(in_shm, owner)
    return _take_directory(on_disk.absolute(), owner, f"{few}: they are in the data directory, which is slower")


def _directory_name(owner: Owner) -> str:
    return f"kvserver-{os.getuid()}-{owner.store}-{owner.device:x}-{owner.inode:x}"


def _bytes_wanted(snapshot_bytes: int, *places: Path | None) -> int:
    """Return the bytes that maps want, with a reserve.

    They may grow to twice the last snapshot. Where there is none yet, or an old one, they may be built again as large
    as they are in one of `places`.
    """
    largest = max(_bytes_of(place, "shard-*/data.mdb") for place in places if place is not None)
    return max(MIN_FREE_BYTES + 2 * snapshot_bytes, MIN_FREE_BYTES // 2 + largest)


def _bytes_available(place: Path, own: Path) -> int:
    """Return the bytes that maps in `own` may have: those free at `place`, and those that the old maps there take.

    Maps that are not kept are removed before others are built.
    """
    if not _may_write(place):
        return 0
    return free_bytes(place) + _bytes_of(own, "shard-*/data.mdb") + _bytes_of(own, "shard-*.ballast")


def _may_write(place: Path) -> bool:
    return os.access(place, os.W_OK | os.X_OK)


def _bytes_of(own: Path, pattern: str) -> int:
    return sum(path.stat().st_blocks * 512 for path in own.glob(pattern))


def _space_warning(wanted: Path, snapshot_bytes: int) -> str:
    place = next(path for path in (wanted.absolute(), *wanted.absolute().parents) if path.exists())
    free, need = _bytes_available(place, wanted), _bytes_wanted(snapshot_bytes, wanted)
    return "" if free >= need else f"only {free >> 20} MiB are free in {wanted}, the maps need {need >> 20} MiB"


def _take_directory(path: Path, owner: Owner, notice: str, reserved: bool = False) -> MapDir:
    """Make `path` if needed, lock it and make it `owner`'s. `reserved`: only a server gives a directory this name."""
    while True:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _open_own(path) as found:
            _check_directory(found, reserved)
            try:
                lock = _lock_directory(found)
            except FileNotFoundError:  # another process took it for stale and removed it before we had the lock
                continue
            try:
                _claim_for(found, owner)
            except BaseException:
                os.close(lock)
                raise
        return MapDir(path, lock, owner, notice)


def _open_own(path: Path) -> Contents:
    """Open the map directory `path`. Raises `MapDirError` if it is none of this user.

    /dev/shm is open to all users: a link or a directory of another user may lie in wait there.
    """
    try:
        return Contents(path, [os.getuid()])
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP, errno.EPERM):
            raise
    raise MapDirError(f"the map directory {path} must be a directory of this user: choose another with --map-dir")


def _check_directory(found: Contents, reserved: bool) -> None:
    strangers = foreign_names(found, reserved)
    if strangers:
        raise MapDirError(
            f"the map directory {found.path} holds other files ({min(strangers)}): name an empty directory with "
            "--map-dir"
        )
    os.fchmod(found.fd, 0o700)


def _lock_directory(found: Contents) -> int:
    """Lock a map directory for life.

    Raises `MapDirError` if another server has it, `FileNotFoundError` if it was removed in the meantime.
    """
    lock = found.lock(_LOCK_S)
    if lock is None:
        raise MapDirError(f"the map directory {found.path} is in use by another server: stop it, or give --map-dir")
    return lock


def _claim_for(found: Contents, owner: Owner) -> None:
    before, path = read_owner(found), found.path
    if before is not None and before != owner and before.exists():
        raise MapDirError(
            f"the map directory {path} holds the maps of the store in {text_to_path(before.data_dir or '')}: give each "
            "its own --map-dir"
        )
    if before == owner and owner.data_dir is not None:
        return  # nothing is written: there may be no room for it
    found.empty(is_in_memory(before))
    found.write_owner(msgspec.json.encode(owner))


def _give_up(path: Path, owner: Owner) -> None:
    """Remove the map directory `path` if it is `owner`'s; what cannot be removed is left."""
    believed = trusted_uids() if owner.data_dir is None else trusted_about(Path(text_to_path(owner.data_dir)))
    with contextlib.suppress(OSError, MapDirError), Contents(path, believed) as found:
        whose = read_owner(found)
        if (whose is None or whose.store == owner.store) and not foreign_names(found):
            found.remove(is_in_memory(whose))


def _remove_stale(shm: Path, mine: Owner | None = None) -> int:
    """Remove the maps without a store or server, for the store `mine`; return how many bytes that frees."""
    freed = 0
    for path in _own_directories(shm):
        # It may be removed by another server in the meantime, or be of another version.
        with contextlib.suppress(OSError, MapDirError), Contents(path, [os.getuid()]) as found:
            owner = read_owner(found)
            if owner is not None and (owner == mine or (owner.exists() and not _is_replaced(owner, mine))):
                continue  # without an owner, it was being removed by a process that was killed, or is being made
            lock = open_regular(Path(LOCK), os.O_RDWR, found.fd)
            try:
                if (
                    locks.try_acquire_for_life(lock)
                    and read_owner(found) == owner
                    and not foreign_names(found, reserved=True)
                ):
                    taken = found.taken()
                    found.remove(is_in_memory(owner))
                    freed += taken
            finally:
                os.close(lock)
    return freed


def _is_replaced(owner: Owner, mine: Owner | None) -> bool:
    """Whether the store `mine` is now where `owner` was, whatever the path to it."""
    if mine is None or mine.data_dir is None or owner.data_dir is None:
        return False
    return (owner.device, owner.inode) == (mine.device, mine.inode) and owner.store != mine.store


def _own_directories(shm: Path) -> Iterator[Path]:
    for path in shm.glob(f"kvserver-{os.getuid()}-*-*-*"):
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(path.lstat().st_mode) and path.lstat().st_uid == os.getuid():
                yield path
