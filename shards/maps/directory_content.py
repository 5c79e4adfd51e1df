"""What is in a map directory: whose maps they are, which files a server put there, and how to remove those alone."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import msgspec

from shards.files.path_text import path_to_text, text_to_path
from shards.files.safe_files import read_regular
from shards.log.manifest import Manifest, ManifestError, NoManifest

LOCK, OWNER = "lock", "owner"
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


def bytes_of(own: Path, pattern: str) -> int:
    return sum(path.stat().st_blocks * 512 for path in own.glob(pattern))


def foreign_names(path: Path, reserved: bool = False) -> set[str]:
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
    if strangers or reserved or read_owner(path) is not None:
        return strangers
    return {entry.name for entry in entries} - {LOCK, OWNER + ".new"}


def _names_within(directory: str) -> re.Pattern[str]:
    """The names of what a server puts into the directory of that name in a map directory."""
    return next((names for pattern, names in _OURS_WITHIN if pattern.fullmatch(directory)), _NOTHING)


def remove_content(path: Path) -> None:
    """Remove what servers put there but the lock; the owner last, which marks the directory as long as anything else is
    there.

    Foreign files stay, and the directory that they are in.
    """
    for entry in path.iterdir():
        if not _OURS.fullmatch(entry.name) or entry.name in (LOCK, OWNER):
            continue
        if entry.is_dir() and not entry.is_symlink():
            _remove_directory(entry)
        else:
            entry.unlink()
    (path / OWNER).unlink(missing_ok=True)


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


def remove_map_dir(path: Path) -> None:
    """Remove a map directory. Raises `OSError`."""
    remove_content(path)
    (path / LOCK).unlink(missing_ok=True)
    path.rmdir()


def read_owner(path: Path) -> Owner | None:
    """Read the owner of the map directory `path`; None if there is no owner file.

    Raises `MapDirError` if that cannot be read by this version, `OSError` if it cannot be read at all: it may have
    an owner.
    """
    try:
        text = read_regular(path / OWNER, _MOST_OWNER)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return msgspec.json.decode(text, type=Owner)
    except (msgspec.MsgspecError, RecursionError):
        raise MapDirError(
            f"the map directory {path} holds a file {OWNER} that this program has not written: name an empty "
            "directory with --map-dir"
        ) from None
