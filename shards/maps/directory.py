"""Chooses, locks and cleans the directory of the maps.

Best in memory: a directory of the store's own under /dev/shm. It holds the maps, a `lock` for life that the supervisor
takes, and `owner`, which names the data directory it is a view of. A directory left behind there is removed by the
next server that starts, but only if its lock is free and the store named in it is not in its data directory any more: a
store that is merely stopped keeps its maps, which makes its next start short.

Nothing is removed but what a server has put there: a directory that holds anything else, at whatever depth, is refused,
whatever its `owner` file says, which can be forged.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from shards.files import locks
from shards.files.path_text import path_to_text, text_to_path
from shards.files.safe_files import read_regular
from shards.log.manifest import Manifest, ManifestError, NoManifest
from shards.maps.space import free_bytes
from shards.wire.errors import what_helps

SHM = Path("/dev/shm")
MIN_FREE_BYTES = 256 << 20
"""Bytes that must be free beside twice the last snapshot."""

ON_DISK = "maps"
"""The map directory's name in the data directory."""

_LOCK, _OWNER = "lock", "owner"
_OURS = re.compile(
    r"lock|\.lock\..*|owner(?:\.new)?"
    r"|shard-[0-9]{1,3}\.(?:[0-9a-f]{1,16}(?:\.old)?|new|ballast)"
    r"|locks|log"  # of a store in memory
)
"""The names that a server gives to what is in a map directory."""
_OURS_WITHIN = (
    (re.compile(r"shard-.*"), re.compile(r"(?:data|lock)\.mdb")),
    (re.compile("locks"), re.compile(r"append|flush|snapshot|store|backup|shard-[0-9]{1,3}|\..*")),
    (re.compile("log"), re.compile(r"[0-9]{12}\.log(?:\.new|\.spare)*")),
)
"""The same of what is in a directory of its own there: files, all of it."""
_NOTHING = re.compile(r"(?!)")
_MOST_OWNER = 1 << 14
_LOCK_S = 1.0  # the locks of a killed server are not all free at the same moment


class MapDirError(Exception):
    """The maps cannot be put there; the message names the directory, says why and what to do."""


class Owner(msgspec.Struct, frozen=True):
    """The store whose maps a directory holds.

    `data_dir`, encoded by `path_to_text`, is None for a store in memory, which ends with its server.
    """

    store: str
    data_dir: str | None
    device: int = 0
    inode: int = 0

    @classmethod
    def of(cls, store: str, data_dir: Path | None) -> Owner:
        """Describe the store `store` in `data_dir` as an owner."""
        if data_dir is None:
            return cls(store, None)
        status = data_dir.stat()
        return cls(store, path_to_text(str(data_dir.resolve())), status.st_dev, status.st_ino)

    def exists(self) -> bool:
        """Whether the store is still in its data directory; True if that cannot be checked."""
        if self.data_dir is None:
            return False
        try:
            status = os.stat(text_to_path(self.data_dir))  # noqa: PTH116 - the text of a file, not a path of ours
        except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: no path is like that
            return False
        except OSError:
            return True
        if (status.st_dev, status.st_ino) != (self.device, self.inode):
            return False
        try:
            return (
                Manifest.load(Path(text_to_path(self.data_dir))).store == self.store
            )  # inodes of what was removed come again
        except NoManifest:
            return False
        except ManifestError:
            return True


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
            _remove_map_dir(self.path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
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
        if _read_owner(path) == owner:
            lock = _lock_directory(path)
            try:
                freed += _bytes_of(path, "shard-*/data.mdb") + _bytes_of(path, "shard-*.ballast")
                _remove_content(path)
            finally:
                os.close(lock)
            if path.name in (_directory_name(owner), ON_DISK):  # else the operator has made it
                with contextlib.suppress(OSError):
                    (path / _LOCK).unlink()
                    path.rmdir()
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
    few = f"only {free >> 20} MiB are free in {shm}, {need >> 20} MiB are wanted for the maps"
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
    return "" if free >= need else f"only {free >> 20} MiB are free for the maps in {wanted}, {need >> 20} are wanted"


def _take_directory(path: Path, owner: Owner, notice: str, reserved: bool = False) -> MapDir:
    """Make `path` if needed, lock it and make it `owner`'s. `reserved`: only a server gives a directory this name."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_directory(path, reserved)
    lock = _lock_directory(path)
    try:
        _claim_for(path, owner)
    except BaseException:
        os.close(lock)
        raise
    return MapDir(path, lock, owner, notice)


def _check_directory(path: Path, reserved: bool) -> None:
    status = path.lstat()  # /dev/shm is open to all users: a link or a directory of another user may lie in wait there
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise MapDirError(f"the map directory {path} must be a directory of this user: choose another with --map-dir")
    strangers = _foreign_names(path, reserved)
    if strangers:
        raise MapDirError(
            f"the map directory {path} holds other files ({min(strangers)}): name an empty directory with --map-dir"
        )
    path.chmod(0o700)


def _foreign_names(path: Path, reserved: bool = False) -> set[str]:
    """Return the names in `path` that no server put there.

    Without an owner that is whatever was there before a server was, unless the directory has a name that only a server
    gives.
    """
    entries = list(path.iterdir())
    strangers = {entry.name for entry in entries if not _OURS.fullmatch(entry.name) or entry.is_symlink()}
    for entry in entries:
        if entry.name not in strangers and entry.is_dir():
            ours = _names_within(entry.name)
            with os.scandir(entry) as files:
                strangers |= {
                    f"{entry.name}/{file.name}"
                    for file in files
                    if not ours.fullmatch(file.name) or not file.is_file(follow_symlinks=False)
                }
    if strangers or reserved or _read_owner(path) is not None:
        return strangers
    return {entry.name for entry in entries} - {_LOCK, _OWNER + ".new"}


def _names_within(directory: str) -> re.Pattern[str]:
    """The names of what a server puts into the directory of that name in a map directory."""
    return next((names for pattern, names in _OURS_WITHIN if pattern.fullmatch(directory)), _NOTHING)


def _lock_directory(path: Path) -> int:
    while True:
        lock = locks.open_lock(path / _LOCK)
        if not locks.acquire_for_life(lock, timeout_s=_LOCK_S):
            os.close(lock)
            raise MapDirError(f"the map directory {path} is in use by another server: stop it, or give --map-dir")
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(lock).st_ino == (path / _LOCK).stat().st_ino:
                return lock
        os.close(lock)  # another server took the directory for stale and removed it before we had the lock
        path.mkdir(mode=0o700, parents=True, exist_ok=True)


def _claim_for(path: Path, owner: Owner) -> None:
    before = _read_owner(path)
    if before is not None and before != owner and before.exists():
        raise MapDirError(
            f"the map directory {path} holds the maps of the store in {text_to_path(before.data_dir or '')}: give each "
            "its own --map-dir"
        )
    if before == owner and owner.data_dir is not None:
        return  # nothing is written: there may be no room for it
    _remove_content(path)
    temporary = path / (_OWNER + ".new")
    temporary.unlink(missing_ok=True)  # it may be a link
    temporary.write_bytes(msgspec.json.encode(owner))
    temporary.rename(path / _OWNER)


def _remove_content(path: Path) -> None:
    """Remove what servers put there but the lock; the owner last, which marks the directory as long as anything else is
    there.

    Foreign files stay, and the directory that they are in.
    """
    for entry in path.iterdir():
        if not _OURS.fullmatch(entry.name) or entry.name in (_LOCK, _OWNER):
            continue
        if entry.is_dir() and not entry.is_symlink():
            _remove_directory(entry)
        else:
            entry.unlink()
    (path / _OWNER).unlink(missing_ok=True)


def _remove_directory(path: Path) -> None:
    ours = _names_within(path.name)
    for file in path.iterdir():
        if ours.fullmatch(file.name) and not (file.is_dir() and not file.is_symlink()):
            file.unlink()
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _remove_map_dir(path: Path) -> None:
    """Remove a map directory. Raises `OSError`."""
    _remove_content(path)
    (path / _LOCK).unlink(missing_ok=True)
    path.rmdir()


def _give_up(path: Path, owner: Owner) -> None:
    """Remove the map directory `path` if it is `owner`'s; what cannot be removed is left."""
    with contextlib.suppress(OSError, MapDirError):
        found = _read_owner(path)
        if (found is None or found.store == owner.store) and not _foreign_names(path):
            _remove_map_dir(path)


def _read_owner(path: Path) -> Owner | None:
    """Read the owner of the map directory `path`; None if there is no owner file.

    Raises `MapDirError` if that cannot be read by this version, `OSError` if it cannot be read at all: it may have
    an owner.
    """
    try:
        text = read_regular(path / _OWNER, _MOST_OWNER)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return msgspec.json.decode(text, type=Owner)
    except (msgspec.MsgspecError, RecursionError):
        raise MapDirError(
            f"the map directory {path} holds a file {_OWNER} that this program has not written: name an empty "
            "directory with --map-dir"
        ) from None


def _remove_stale(shm: Path, mine: Owner | None = None) -> int:
    """Remove the maps without a store or server, for the store `mine`; return how many bytes that frees."""
    freed = 0
    for path in _own_directories(shm):
        with contextlib.suppress(OSError, MapDirError):  # it is being removed by another server, or of another version
            owner = _read_owner(path)
            if owner is not None and (owner == mine or (owner.exists() and not _is_replaced(owner, mine))):
                continue  # no owner: its removal was killed half-way, or it is being made
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if (
                    locks.try_acquire_for_life(lock)
                    and _read_owner(path) == owner
                    and not _foreign_names(path, reserved=True)
                ):
                    taken = _bytes_of(path, "shard-*/data.mdb") + _bytes_of(path, "shard-*.ballast")
                    _remove_map_dir(path)
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
