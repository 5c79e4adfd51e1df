"""Compiles programs with the C client."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

SDK = Path(__file__).parents[3] / "kvserver" / "sdk" / "c"
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror")
SANITIZERS = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
COMPILERS = tuple(name for name in ("gcc", "clang") if shutil.which(name))


def run(command: Sequence[str | Path], **environ: str) -> str:
    """Run a command that must succeed, and return its output. `environ` is added to the environment."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=bare_environ() | environ, timeout=100
    )
    assert done.returncode == 0, (
        f"{shlex.join(map(str, command))}: {done.returncode}\n{done.stdout[-5000:]}\n{done.stderr[-10000:]}"
    )
    return done.stdout


def bare_environ() -> dict[str, str]:
    """Return the environment without what would lead a client elsewhere."""
    return {name: text for name, text in os.environ.items() if not name.startswith("KVSERVER_")}


@cache
def libraries(websocket: bool = True) -> tuple[str, ...]:
    """Return the flags that link what the client needs."""
    flags = run(["pkg-config", "--cflags", "--libs", "libcurl", "jansson"]).split()
    return (*flags, *(["-lwslay"] if websocket else []))


def compile_object(output: Path, *options: str, compiler: str = "gcc") -> Path:
    """Compile `kvclient.c` alone, warnings being errors."""
    run([compiler, *WARNINGS, *options, "-c", SDK / "kvclient.c", "-o", output])
    return output


def link(output: Path, *sources: Path, options: Sequence[str] = SANITIZERS, standard: str = "-std=c99") -> Path:
    """Build a program of sources and objects."""
    warnings = [standard, *WARNINGS[1:]]
    run(["gcc", *warnings, *options, f"-I{SDK}", *sources, "-o", output, *libraries()])
    return output
