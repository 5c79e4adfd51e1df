"""Small file systems for one engine or one server of a cluster: a tmpfs in a mount namespace of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

MiB = 1 << 20


class SmallDisk:
    """A tmpfs over `place`, for the processes that `command` starts. It lasts until `close`."""

    def __init__(self, place: Path, size: int) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self._place = place
        mount = f'mount -t tmpfs -o size={size} tmpfs "$1" && echo mounted && exec sleep 100000'
        self._keeper = subprocess.Popen(
            ["unshare", "-rm", "sh", "-c", mount, "sh", str(place)], stdout=subprocess.PIPE, text=True
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == "mounted\n"

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs `argv` where the file system is, in the process that it starts."""
        return ["nsenter", "-t", str(self._keeper.pid), "-U", "-m", "--preserve-credentials", "--", *argv]

    def run(self, *argv: str) -> str:
        """Run a command there, and return what it prints."""
        return subprocess.run(self.command(argv), check=True, capture_output=True, text=True).stdout

    def fill(self, left: int = 0) -> None:
        """Fill it, but for `left` bytes."""
        code = (
            "import os, sys; path, left = sys.argv[1], int(sys.argv[2]); free = os.statvfs(path); "
            "size = free.f_bavail * free.f_frsize - left; "
            "fd = os.open(path + '/filler', os.O_CREAT | os.O_WRONLY); size > 0 and os.posix_fallocate(fd, 0, size)"
        )
        self.run(sys.executable, "-c", code, str(self._place), str(left))

    def make_room(self) -> None:
        """Remove what `fill` has made."""
        self.run("rm", "-f", f"{self._place}/filler")

    def close(self) -> None:
        self._keeper.send_signal(signal.SIGKILL)
        self._keeper.wait()
        if self._keeper.stdout is not None:
            self._keeper.stdout.close()


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[SmallDisk]:
    made = SmallDisk(place, size)
    try:
        yield made
    finally:
        made.close()


def can_mount() -> bool:
    """Whether this user may make such file systems."""
    return os.geteuid() == 0
