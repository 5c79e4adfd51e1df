"""The real program `kvserver`, run against a server of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from click.testing import CliRunner

from kvserver.cli import main
from tests.system.harness import Server

PROGRAM: Final = str(Path(sys.executable).parent / "kvserver")


def environ(server: Server | None = None, **more: str) -> dict[str, str]:
    """The environment of a user: nothing of ours but where the server is."""
    found = {name: text for name, text in os.environ.items() if not name.startswith("KVSERVER_")}
    found |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "NO_PROXY": "*", "TERM": "xterm"}
    if server is not None:
        found["KVSERVER_URL"] = f"{server.host}:{server.port}"
    return found | more


def run(server: Server | None, *words: str, given: bytes = b"", **more: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command in this process, which costs less. `given`: its standard input; `more`: of its environment."""
    variables: dict[str, str | None] = {name: None for name in os.environ if name.startswith("KVSERVER_")}
    done = CliRunner().invoke(
        main, list(words), input=given, env=variables | environ(server, **more), catch_exceptions=False
    )
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout_bytes, done.stderr_bytes)


def program(server: Server | None, *words: str, given: bytes = b"", **more: str) -> subprocess.CompletedProcess[bytes]:
    """Run the real program, as `run` does."""
    return subprocess.run([PROGRAM, *words], input=given, capture_output=True, timeout=60, env=environ(server, **more))


def succeed(server: Server, *words: str, given: bytes = b"", **more: str) -> bytes:
    """Run a command, which must succeed, and return its data."""
    done = run(server, *words, given=given, **more)
    assert done.returncode == 0, done
    return done.stdout


def fail(server: Server | None, status: int, *words: str, given: bytes = b"", **more: str) -> str:
    """Run a command, which must end with `status` and no data, and return what it says."""
    done = run(server, *words, given=given, **more)
    assert (done.returncode, done.stdout) == (status, b""), done
    return done.stderr.decode()


def shell(server: Server, script: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash."""
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, timeout=60, env=environ(server, **more), stdin=subprocess.DEVNULL
    )
