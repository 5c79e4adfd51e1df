"""The engine of a machine that waits for its cluster.

A machine of a new cluster needs its engine before it can make its store. The engine then runs on: to start it again
would cost the cluster an election.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from kvserver.serve.cluster.addresses import Machine
from kvserver.serve.cluster.files import ClusterError, ClusterSetup
from kvserver.serve.cluster.processes import engine_argv, is_answering
from kvserver.settings import ServerSettings
from shards.host.process import PARENT_VARIABLE
from shards.host.settings import to_environ

_ANSWERS_S: Final = 20.0  # for which it may take to answer; then the order is waited for
_ENDS_S: Final = 0.5  # within which an engine ends that cannot have its ports
_END_S: Final = 10.0  # for which it may take to close its files
_LOOK_S: Final = 0.05


class FirstEngine:
    """A context manager: its end is that of the engine, unless somebody else watches that by then."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            end_process(self._process, signal.SIGTERM)

    def start(self, setup: ClusterSetup, settings: ServerSettings) -> None:
        """Start it, if this machine has one that does not run yet, and wait until it answers.

        Raises `ClusterError` if it ends, as it does where another process has one of its ports; `OSError`.
        """
        if setup.own is not None and self._process is None:
            self._process = start_process(engine_argv(setup, settings), settings)
            _await_answer(self._process, setup.own)

    def hand_over(self) -> subprocess.Popen[bytes] | None:
        """Return its process, which the caller watches and ends from now on; None: it was not started."""
        process, self._process = self._process, None
        return process


def start_process(argv: Sequence[str], settings: ServerSettings) -> subprocess.Popen[bytes]:
    """Start a process that leads a group of its own and ends with this one, as a server's children do.

    Raises `OSError`.
    """
    environ = to_environ(settings, os.environ) | {PARENT_VARIABLE: str(os.getpid())}
    return subprocess.Popen(argv, env=environ, stdin=subprocess.DEVNULL, stdout=2, process_group=0)


def end_process(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """End a process with a signal, or kill it if it takes too long."""
    process.send_signal(number)
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _await_answer(engine: subprocess.Popen[bytes], machine: Machine) -> None:
    """Wait until the engine answers. Another that has one of its ports may answer in its place, so it has a moment to
    end in any case. Raises `ClusterError` if it does."""
    begun_at = time.monotonic()
    while time.monotonic() < begun_at + _ANSWERS_S:
        if engine.poll() is not None:
            raise ClusterError(
                f"the engine ended with exit status {engine.returncode}, its last line says why; it needs the ports "
                f"{', '.join(map(str, machine.ports))} for itself"
            )
        if time.monotonic() > begun_at + _ENDS_S and is_answering(machine.monitor):
            return
        time.sleep(_LOOK_S)
