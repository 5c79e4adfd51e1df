"""What every process of a store does at its start.

- It dies with its parent. PR_SET_PDEATHSIG (prctl(2)) follows the *thread* that started the process and is cleared by
  fork, so each process sets it itself and then compares its parent with the pid it got.
- It belongs to one run of the store: when that is over (`Board.is_over`), it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
from typing import TextIO

PARENT_VARIABLE = "KVSERVER_PARENT_PID"
"""Environment variable in which a starter passes its own pid to a child."""

LARGE_BYTES = 256 << 10
"""Memory of this size and more goes back to the system as soon as it is freed, with `map_large_memory`."""

STOPPED_FOR_GOOD, NEEDS_A_PEER = 65, 66
"""Exit statuses of a shard of a cluster that must not be started again: because a person has to decide, as
`Board.read_stop` says, or because the order no longer has what it needs next."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_M_MMAP_THRESHOLD = -3  # malloc.h of glibc
_libc = ctypes.CDLL(None, use_errno=True)


def keep_standard_streams() -> None:
    """Open /dev/null in the place of each standard stream that is closed, as after `>&-`. Call it before anything else.

    Else the next file or socket gets its number, and what is written to standard error, by a child too, ends up there.
    `sys.stdin` and `sys.stdout` stay None, so that a command which needs one can say that it is closed.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
    if sys.stderr is None:  # print(file=None) would write to standard output
        sys.stderr = os.fdopen(2, "w", errors="backslashreplace", closefd=False)


def mute_stream(stream: TextIO | None) -> None:
    """Send what `stream` still buffers, and all later writes, to /dev/null.

    Else Python would try to write it once more at exit, and turn a failure into an exit status.
    """
    if stream is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when `parent_pid` dies. Exits at once if it is dead already."""
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        os._exit(1)


def die_with_starter() -> None:
    """Call `die_with` with the process in `KVSERVER_PARENT_PID`; without that variable, do nothing."""
    parent_pid = os.environ.pop(PARENT_VARIABLE, "")
    if parent_pid:
        die_with(int(parent_pid))


def policy_of_helpers() -> int:
    """Return by which policy (sched(7)) threads are to be scheduled that work for this process's loop.

    It is SCHED_BATCH: such a thread does not interrupt the loop when it is woken. If this process was started with
    another policy than the usual one it is that, from which it may not be allowed to change.
    """
    own = os.sched_getscheduler(0)
    return os.SCHED_BATCH if own == os.SCHED_OTHER else own


def become_subreaper() -> None:
    """Orphaned grandchildren become this process's children, so that it can reap them."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def map_large_memory() -> None:
    """Have glibc's malloc keep large pieces of memory apart from the heap, so that they go back to the system when they
    are freed (mallopt(3)). By itself it soon takes them from the heap, too, from which little ever goes back.

    Does nothing with other C libraries.
    """
    with contextlib.suppress(AttributeError):
        _libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def schedule_process(scheduling: str) -> None:
    """Have the kernel schedule this process, and all threads that it starts from now on, by SCHED_BATCH (sched(7)) if
    `scheduling` is "batch"; else leave it as it was started.

    Such a process does not interrupt another one when it is woken. It needs no privilege. Where a sandbox forbids it,
    nothing changes: see `read_scheduling`.
    """
    if scheduling == "batch":
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def read_scheduling(pid: int) -> str:
    """Return how the kernel schedules the process `pid`: "normal" or "batch"; "unknown" if it is neither, or gone."""
    try:
        policy = os.sched_getscheduler(pid)
    except OSError:
        return "unknown"
    return {os.SCHED_OTHER: "normal", os.SCHED_BATCH: "batch"}.get(policy, "unknown")


def notify_systemd(state: str) -> None:
    """Send `state` to systemd, if NOTIFY_SOCKET names its socket (sd_notify(3))."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
            notifier.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)
