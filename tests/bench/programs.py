"""Load from programs in C, compiled when they are wanted: where Python would be the slowest part of a measurement."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

_SOURCES: Final = Path(__file__).parent


class Failed(RuntimeError):
    """A program, or the server that it asked, did not do what it should."""


def compiler() -> str | None:
    """What compiles C here; None: nothing."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def build(name: str, directory: Path) -> Path:
    """The program of `name.c`, compiled in `directory`. Raises `Failed`."""
    program = directory / name
    command = [compiler() or "cc", "-O2", "-o", str(program), str(_SOURCES / f"{name}.c")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{' '.join(command)}: {done.stderr[-1000:]}")
    return program


def run(command: list[str], timeout_s: float) -> str:
    """What a program prints. Raises `Failed` with what it complains of, or if it takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{Path(command[0]).name} is not over after {timeout_s:g} s") from error
    if done.returncode:
        raise Failed(done.stderr.strip())
    return done.stdout
