"""Disks of machines, all of which lose their power at one moment, with everything that they had not flushed.

A disk is an image file in a file system, the *cabinet*, which is one file itself. What a machine writes is at first in
the page cache of its own file system; what its disk gets without a flush, in that of the cabinet, as in a disk's own
cache. Only a flush brings it into the cabinet's file. A copy of that file, of one moment since XFS shares the blocks of
both, is what is left of all disks when the power fails.

All this is in memory, and in a mount namespace, which ends with the process that keeps it. Needs root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

from tests.system.harness import wait_for

MiB: Final = 1 << 20
_SIZE: Final = 1024 * MiB
"""Of a disk; what it does not hold takes no memory."""
_NEW_EXT4: Final = ("mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-m", "0")
_FILL: Final = """
import contextlib, os, sys
fd, size = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY), 0
for step in (64 << 20, 1 << 20, 4096):
    with contextlib.suppress(OSError):
        while True:
            os.posix_fallocate(fd, size, step)
            size += step
"""


def require_disks() -> None:
    """Skip the test without root or programs; expect its failure where the kernel has no loop devices or no XFS."""
    if os.geteuid() or not all(map(shutil.which, ("mkfs.xfs", "mkfs.ext4"))):
        pytest.skip("needs root, to mount file systems, and xfsprogs and e2fsprogs")
    known = Path("/proc/filesystems").read_text().split()
    missing = [name for name in ("xfs", "ext4") if name not in known]
    if missing or not Path("/dev/loop-control").exists():
        pytest.xfail(f"no disks here whose power can be cut: no {' '.join(missing) or 'loop devices'}")


class Disks:
    """A disk for each machine, with a file system. A context manager.

    Args:
        place: an empty directory.
        names: of the machines.
        size: of a disk, in bytes.
    """

    def __init__(self, place: Path, names: Sequence[str], size: int = _SIZE) -> None:
        self._names, self._size = names, size
        self._memory, self._cabinet = place / "memory", place / "cabinet"
        self._places = {name: place / f"disk-{name}" for name in names}
        for path in (self._memory, self._cabinet, *self._places.values()):
            path.mkdir(parents=True)
        self._keeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._keeper = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec cat >/dev/null"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._keeper.stdout is not None
        self._keeper.stdout.readline()  # it is in its namespace
        try:
            self._build()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._keeper is not None:
            self._keeper.communicate()  # which ends its input

    def path(self, name: str) -> Path:
        """Where the disk of a machine is, for processes in `namespace`."""
        return self._places[name]

    @property
    def namespace(self) -> Path:
        """The mount namespace that they are in, as `nsenter --mount` takes it."""
        assert self._keeper is not None
        return Path(f"/proc/{self._keeper.pid}/ns/mnt")

    def command(self, *argv: str) -> list[str]:
        """The command line that runs `argv` where the disks are."""
        return ["nsenter", f"--mount={self.namespace}", "--", *argv]

    def run(self, *argv: str) -> str:
        """Run a command where the disks are; return what it prints."""
        return subprocess.run(self.command(*argv), check=True, capture_output=True, text=True).stdout

    def run_python(self, code: str, *arguments: str) -> str:
        """Run a program where the disks are; return what it prints."""
        return self.run(sys.executable, "-c", code, *arguments)

    def fill(self, name: str) -> None:
        """Leave no room on a disk."""
        self.run_python(_FILL, str(self.path(name) / "filler"))

    def make_room(self, name: str) -> None:
        """Remove what `fill` has made."""
        self.run("rm", "-f", str(self.path(name) / "filler"))

    def fail(self) -> None:
        """Keep what all disks have at this moment. Processes go on, and have to be killed; then `come_back`."""
        self.run("cp", "--reflink=always", str(self._memory / "all"), str(self._memory / "left"))

    def come_back(self) -> None:
        """Have the disks as they were left."""
        for place in (*self._places.values(), self._cabinet):
            wait_for(lambda place=place: self._unmount(place), f"{place} is used by nobody", 30)
        self.run("mv", str(self._memory / "left"), str(self._memory / "all"))
        self._mount()

    def _unmount(self, place: Path) -> bool:
        """Unmount it; false: what was killed has not ended yet."""
        return subprocess.run(self.command("umount", str(place)), capture_output=True, check=False).returncode == 0

    def _build(self) -> None:
        memory = str(self._memory)
        self.run("mount", "-t", "tmpfs", "-o", "size=100%", "tmpfs", memory)
        total = (self._size + 128 * MiB) * len(self._names)
        image = str(self._memory / "xfs")
        self.run("truncate", "-s", str(4 * total), image)
        self.run("mkfs.xfs", "-q", "-m", "reflink=1", image)
        self.run("mount", "-o", "loop", image, memory)  # over it: nobody needs what is below
        self.run("truncate", "-s", str(total), str(self._memory / "all"))
        self.run(*_NEW_EXT4, str(self._memory / "all"))
        self.run("mount", "-o", "loop", str(self._memory / "all"), str(self._cabinet))
        for name in self._names:
            image = str(self._cabinet / name)
            self.run("fallocate", "-l", str(self._size), image)
            self.run(*_NEW_EXT4, image)
        self.run("umount", str(self._cabinet))
        self._mount()

    def _mount(self) -> None:
        self.run("mount", "-o", "loop", str(self._memory / "all"), str(self._cabinet))
        for name, place in self._places.items():
            self.run("mount", "-o", "loop", str(self._cabinet / name), str(place))
