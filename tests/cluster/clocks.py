"""Wall clocks of machines that tests can set: those of all processes that use the C library, as Python's do.

CLOCK_MONOTONIC and CLOCK_BOOTTIME go on as they are. (libfaketime 0.9.10 breaks `time.sleep` if it shall leave these
alone.) The engine asks the kernel itself, as programs in Go do: it has the true clock.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_name("wall_clock.c")


def require_compiler() -> None:
    """Skip the test without a compiler."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc and libc6-dev")


class WallClock:
    """The wall clock of the processes that are started with `environ`.

    Args:
        directory: where its files are made.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._file, library = directory / "ahead", directory / "wall_clock.so"
        self._file.write_bytes(bytes(8))
        subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, _SOURCE], check=True)
        self.environ = {"LD_PRELOAD": str(library), "WALL_CLOCK_FILE": str(self._file)}

    def set_ahead(self, seconds: int) -> None:
        """Set it, to be ahead of the true clock by `seconds`; below 0: behind it."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", seconds))
