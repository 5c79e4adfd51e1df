"""`kvserver`'s commands, run on the directories of a server of the tests."""

from __future__ import annotations

import subprocess
import sys

from tests.system.harness import Server


def kvserver(server: Server, name: str, *arguments: object, run_dir: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command on the server's directories."""
    return subprocess.run(
        command(server, name, *arguments, run_dir=run_dir), capture_output=True, text=True, timeout=60
    )


def command(server: Server, name: str, *arguments: object, run_dir: bool = True) -> list[str]:
    where: list[object] = ["--data-dir", server.data_dir]
    if run_dir:
        where += ["--run-dir", server.run_dir]
    return [sys.executable, "-m", "kvserver", name, *map(str, [*arguments, *where])]


def succeed(server: Server, name: str, *arguments: object, run_dir: bool = True) -> str:
    done = kvserver(server, name, *arguments, run_dir=run_dir)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def refused(server: Server, name: str, *arguments: object, run_dir: bool = True) -> str:
    done = kvserver(server, name, *arguments, run_dir=run_dir)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("kvserver: ")
    return done.stderr
