"""Child processes: spawned, watched, restarted with back-off, stopped.

Nothing here blocks: the supervisor calls `Children.reap_and_start` several times a second with the current time. Each
child leads its own process group. So Ctrl-C in a terminal reaches only the supervisor, which then stops its children in
order, and one call kills whatever a dead gunicorn master left behind. A child is restarted only after its predecessor
and the predecessor's whole group are reaped.

Only the main thread may spawn: the kernel's parent-death signal (prctl(2), PR_SET_PDEATHSIG) follows the thread that
spawned the child.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kvserver.serve.watch import scarcity

log = logging.getLogger(__name__)

TRIES = 3
"""Consecutive failures that end the server if the child was never up, and otherwise mark the child `given_up`."""

SPAWN_FAILED = 127
"""Exit status of a child that could not be spawned; shells use the same number."""


class CannotStart(Exception):
    """A child keeps dying before it was ever up; the message names it."""


class Backoff:
    """Delay before a dead process is restarted. Pure.

    The first restart is immediate, the next waits 0.05 s, and the delay doubles up to 5 s. A life of 10 s resets it.
    """

    FIRST_S, MOST_S, LONG_LIFE_S = 0.05, 5.0, 10.0

    def __init__(self) -> None:
        self._short_lives = 0

    def after_life_of(self, lived_s: float) -> float:
        """Return the seconds to wait after a process died that lived for `lived_s` seconds."""
        if lived_s >= self.LONG_LIFE_S:
            self._short_lives = 0
        self._short_lives += 1
        if self._short_lives == 1:
            return 0.0
        doublings = min(self._short_lives - 2, 32)
        return min(self.MOST_S, self.FIRST_S * 2.0**doublings)


@dataclass
class Child:
    """One child process and its state.

    Attributes:
        name: used in messages and metrics.
        argv: command line.
        is_up: takes the pid and returns whether the process works; called on each pass until it returns True.
        stage: children are stopped stage by stage.
        after: the first start waits until all children of stages below this one are up; None: below its own stage.
        final: exit statuses after which the child is not wanted any more.
        environ, pass_fds: as for subprocess.Popen.
        grace_s: seconds the child may take to exit after SIGTERM; then it is killed.
        pid: pid of the living process, or None.
        up: `is_up` returned True for the living process.
        ever_up: `is_up` has returned True at least once.
        failures: consecutive deaths before the child was up.
        wanted: restart the child when it dies.
        status: exit status of the last process; a negative number is a signal.
    """

    name: str
    argv: Sequence[str]
    is_up: Callable[[int], bool]
    stage: int = 0
    environ: Mapping[str, str] = field(default_factory=dict)
    pass_fds: Sequence[int] = ()
    grace_s: float = math.inf
    after: int | None = None
    final: Collection[int] = ()
    pid: int | None = None
    up: bool = False
    ever_up: bool = False
    failures: int = 0
    wanted: bool = True
    status: int = 0
    _group: int | None = None
    _process: subprocess.Popen[bytes] | None = None
    _started_at: float = 0.0
    _start_at: float = 0.0
    _backoff: Backoff = field(default_factory=Backoff)

    @property
    def given_up(self) -> bool:
        """Whether the child fails to start at least TRIES times in a row. It is still retried every few seconds."""
        return self.failures >= TRIES

    @property
    def is_gone(self) -> bool:
        """Whether neither the process nor its group is left."""
        return self.pid is None and self._group is None

    def start_process(self, now: float, cwd: Path) -> None:
        """Start the process. Its standard output goes to standard error, where logs belong. Raises `OSError`."""
        process = subprocess.Popen(
            self.argv,
            env=dict(self.environ),
            pass_fds=self.pass_fds,
            cwd=cwd,
            process_group=0,
            stdin=subprocess.DEVNULL,
            stdout=2,
        )
        self.adopt_process(process, now)

    def adopt_process(self, process: subprocess.Popen[bytes], now: float) -> None:
        """Watch a process that leads a group of its own already, in place of one that `start_process` starts."""
        self._process = process
        self.pid = self._group = process.pid
        self.up, self._started_at = False, now

    def note_spawn_failure(self, now: float, error: OSError) -> None:
        """Record that spawning failed and schedule the next attempt.

        A shortage of descriptors or memory is temporary, so it does not count as a failure of the child.
        """
        self.status = SPAWN_FAILED
        self.failures += not scarcity.is_scarcity(error)
        self._start_at = now + max(self._backoff.after_life_of(0.0), Backoff.FIRST_S)

    def note_death(self, now: float, wait_status: int) -> None:
        """Record that the process was reaped and schedule the next start."""
        self.status = os.waitstatus_to_exitcode(wait_status)
        assert self._process is not None
        self._process.returncode = self.status  # we reaped it, so subprocess must not wait for it
        self._process = self.pid = None
        self.failures = 0 if self.up else self.failures + 1
        self.up = False
        self.wanted = self.wanted and self.status not in self.final
        self._start_at = now + self._backoff.after_life_of(now - self._started_at)

    def clear_group(self) -> None:
        """Kill the remaining group of a dead leader; drop the group once it is empty."""
        if self.pid is None and self._group is not None:
            try:
                os.killpg(self._group, signal.SIGKILL)
            except ProcessLookupError:
                self._group = None

    def is_due(self, now: float) -> bool:
        """Return whether to start the child now."""
        return self.wanted and self.is_gone and now >= self._start_at

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, if it lives; SIGKILL goes to its whole group.

        SIGCONT follows a SIGTERM: a stopped process would not handle it.
        """
        with contextlib.suppress(ProcessLookupError):
            if self.pid is not None:
                os.kill(self.pid, number)
            if self._group is not None and number == signal.SIGKILL:
                os.killpg(self._group, number)
            elif self._group is not None and number == signal.SIGTERM:
                os.killpg(self._group, signal.SIGCONT)


class Children:
    """All children of the supervisor.

    Attributes:
        restarts: number of restarts by child name.
    """

    def __init__(self, cwd: Path) -> None:
        """`cwd`: working directory of the children; `python -m` looks for modules there first."""
        self._cwd = cwd
        self._children: list[Child] = []
        self.restarts: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Child]:
        return iter(self._children)

    def add(self, child: Child) -> Child:
        """Add `child`: it is started when its stage is reached, and restarted when it dies."""
        self._children.append(child)
        self.restarts[child.name] = 0
        return child

    def start_once(self, name: str, argv: Sequence[str], environ: Mapping[str, str], now: float) -> Child:
        """Start a child that is never restarted. Poll its `is_gone` and `status`, then call `drop_child`.

        Raises `OSError`.
        """
        child = Child(name, argv, lambda _: False, stage=-1, environ=environ, wanted=False)
        child.start_process(now, self._cwd)
        self._children.append(child)
        return child

    def drop_child(self, child: Child) -> None:
        """Remove a child that is gone."""
        self._children.remove(child)

    def all_up(self, below: int | None = None) -> bool:
        """Return whether all wanted children (of stages lower than `below`) are up."""
        return all(child.up for child in self._children if child.wanted and (below is None or child.stage < below))

    def reap_and_start(self, now: float) -> None:
        """Reap dead children, start those that are due, and check which are up.

        `now`: time.monotonic(). Raises `CannotStart`.
        """
        self._reap_dead(now)
        for child in self._children:
            child.clear_group()
            below = child.stage if child.after is None else child.after
            if child.is_due(now) and (child.ever_up or self.all_up(below=below)):
                self._spawn_child(child, now)
            if child.pid is not None and not child.up and child.is_up(child.pid):
                if child.ever_up:
                    log.info("%s is up again (pid %d)", child.name, child.pid)
                child.up = child.ever_up = True
                child.failures = 0

    def _spawn_child(self, child: Child, now: float) -> None:
        try:
            child.start_process(now, self._cwd)
        except OSError as error:
            child.note_spawn_failure(now, error)
            log.warning("cannot start %s now, will retry: %s", child.name, error)
            self._refuse_hopeless(child, f"cannot be spawned ({error})")
            return
        if child.ever_up or child.failures:
            self.restarts[child.name] += 1

    def _reap_dead(self, now: float) -> None:
        """Reap every dead child without blocking, including orphans of dead children."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in self._children:
                if child.pid == pid:
                    self._handle_death(child, now, wait_status)

    def _handle_death(self, child: Child, now: float, wait_status: int) -> None:
        pid, was_up = child.pid, child.up
        child.note_death(now, wait_status)
        if not child.wanted:
            return
        status = child.status
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        log.warning("%s (pid %s) %s%s", child.name, pid, how, "" if was_up else " before it was up")
        self._refuse_hopeless(child, f"{how}, {TRIES} times; see its messages above")

    @staticmethod
    def _refuse_hopeless(child: Child, how: str) -> None:
        # Only a child that was never up ends the server: a restart loop would hide a wrong installation.
        if not child.ever_up and child.failures >= TRIES:
            raise CannotStart(f"cannot start {child.name}: it {how}")

    def stop_stage(self, stage: int, number: int) -> None:
        """Send signal `number` to all children of a stage, and stop restarting them."""
        for child in self._children:
            if child.stage == stage:
                child.wanted = False
                child.send_signal(number)

    def kill_late(self, stage: int, waited_s: float, patience_s: float) -> None:
        """Kill the children of a stage that are still alive `waited_s` seconds after SIGTERM, once that exceeds
        `patience_s` or the child's own `grace_s`."""
        for child in self._children:
            if child.stage == stage and waited_s >= min(patience_s, child.grace_s):
                child.send_signal(signal.SIGKILL)

    def is_stage_gone(self, stage: int) -> bool:
        """Return whether all children of a stage are gone."""
        return all(child.is_gone for child in self._children if child.stage == stage)


def parent_of(pid: int) -> int:
    """Return the parent pid of `pid`, or 0 if no such process exists."""
    try:
        # The name in parentheses may contain anything, so parse only what follows the last one: state, parent, ...
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def is_descendant(pid: int, ancestor: int) -> bool:
    """Return whether `pid` is a living process started by `ancestor` or by one of its descendants."""
    seen = 0
    while pid > 1 and seen < 64:
        pid, seen = parent_of(pid), seen + 1
        if pid == ancestor:
            return True
    return False
