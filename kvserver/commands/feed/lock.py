"""`kvserver lock`: holds a lock while a command runs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Final

import click

from kvserver.client.live.lock import Lock
from kvserver.commands.parts.command import Invocation, TailCommand
from kvserver.commands.parts.names import KeyName
from kvserver.commands.parts.statuses import ABSENT, CONDITION
from kvserver.commands.parts.texts import span_text
from kvserver.commands.parts.words import Duration
from shards.host.logs import print_error

HELP = """Wait for the lock NAME, run CMD while it is held, and release it. The status is that of CMD.

The lock is a key of that name, which expires when its holder dies. CMD finds KVSERVER_LOCK_FENCE in its environment: a
number that grows from holder to holder, so that the protected resource can refuse a smaller one. If the lock is lost,
because the server could not be reached for too long or the key was deleted, CMD gets SIGTERM and the status is 4. The
status is 3 if the lock was not free within --within.

\b
Examples:
  kvserver lock jobs/nightly -- sh -c 'echo "fence $KVSERVER_LOCK_FENCE"'
  kvserver lock jobs/nightly --ttl 30s --within 10s -- true
"""
FENCE_VARIABLE: Final = "KVSERVER_LOCK_FENCE"
_TURN_S: Final = 0.2
_KILL_S: Final = 10.0
"""Seconds that CMD has between SIGTERM and SIGKILL."""


def hold_lock(run: Invocation, name: str, ttl: float, within: float | None, argv: Sequence[str]) -> int:
    """Run the command; return the exit status."""
    lock = run.client.lock(name, ttl=ttl)
    if not lock.acquire(within):
        print_error(f"another holds the lock {name}; it was not free within {span_text(within or 0)}")
        return ABSENT
    try:
        return _run_command(lock, name, argv)
    finally:
        lock.release()


def _run_command(lock: Lock, name: str, argv: Sequence[str]) -> int:
    """Run the command of the user until its end, or the loss of the lock, and return the exit status."""
    started: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def pass_on(number: int, _: object) -> None:
        for process in started:
            process.send_signal(number)
        if not started:
            early.append(number)

    # Ctrl-C reaches the command too: it ends as it likes, and the lock is held until then. SIGTERM is passed on.
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda number, _: None),
        signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on),
    }
    try:
        started.append(subprocess.Popen(argv, env=os.environ | {FENCE_VARIABLE: str(lock.fence)}))
        for number in early:
            started[0].send_signal(number)
        return _wait(lock, name, started[0])
    except OSError as error:
        print_error(f"{argv[0]} cannot be run: {error.strerror}")
        return 126 if isinstance(error, PermissionError) else 127
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(lock: Lock, name: str, process: subprocess.Popen[bytes]) -> int:
    while True:
        try:
            status = process.wait(_TURN_S)
        except subprocess.TimeoutExpired:
            if lock.held:
                continue
            print_error(f"the lock {name} is lost: sending SIGTERM to the command")
            _end(process)
            return CONDITION
        return status if status >= 0 else 128 - status


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_KILL_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


COMMAND = TailCommand(
    "lock",
    hold_lock,
    [
        click.Argument(["name"], type=KeyName(), metavar="NAME"),
        click.Option(
            ["--ttl"],
            type=Duration(above_zero=True),
            metavar="TIME",
            default=10.0,
            help="How long the lock outlives a holder that died. Default: 10s.",
        ),
        click.Option(["--within"], type=Duration(), metavar="TIME", help="Give up after this time. Default: never."),
    ],
    help=HELP,
    mark="--",
    required=True,
)
