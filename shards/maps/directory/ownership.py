"""Whose maps a map directory holds, and which files in it are foreign."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from shards.files.path_text import path_to_text, text_to_path
from shards.log.manifest import Manifest, ManifestError, NoManifest
from shards.maps.directory.contents import LOCK, OWNER, OWNER_NEW, Contents

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


def is_in_memory(owner: Owner | None) -> bool:
    """Whether the maps of `owner` have its log next to them."""
    return owner is not None and owner.data_dir is None


def foreign_names(found: Contents, reserved: bool = False) -> set[str]:
    """Return the names in a map directory that no server put there.

    Without an owner that is whatever was there before a server was, unless the directory has a name that only a server
    gives.
    """
    owner = read_owner(found)
    strangers = found.strangers(is_in_memory(owner))
    if strangers or reserved or owner is not None:
        return strangers
    return found.names() - {LOCK, OWNER_NEW}


def read_owner(found: Contents) -> Owner | None:
    """Read the owner of a map directory; None if there is no owner file.

    Raises `MapDirError` if that cannot be read by this version, `OSError` if it cannot be read at all: it may have
    an owner.
    """
    try:
        text = found.read(OWNER, _MOST_OWNER)
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(text, type=Owner)
    except (msgspec.MsgspecError, RecursionError):
        raise MapDirError(
            f"the map directory {found.path} holds a file {OWNER} that this program has not written: name an empty "
            "directory with --map-dir"
        ) from None
