"""Child processes: spawned, watched, restarted with back-off, stopped.

Nothing here blocks: `Children.turn` is called again and again, with the time, and does what is due. A child leads a
process group of its own, so that Ctrl-C in a terminal reaches the supervisor alone (which then stops its children in
order), and so that what a dead gunicorn master leaves behind is killed with one call. A child is started again only
after its predecessor and the whole group are reaped.

Only the main thread may spawn: the kernel's "die with your parent" follows the thread that spawned.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kvserver.serve.watch import scarcity

log = logging.getLogger(__name__)

TRIES = 3
"""Deaths in a row before a child has ever been up that end the server; after that, that make it `given_up`."""


SPAWN_FAILED = 127
"""The exit status of a child that could not even be spawned, as of shells."""


class CannotStart(Exception):
    """A child dies again and again before it has ever been up; the message names it."""


class Backoff:
    """How long to wait before a process that died is started again. Pure.

    The first time at once, then 0.05 s, doubling up to 5 s; a life of 10 s makes everything forgotten.
    """

    FIRST_S, MOST_S, LONG_LIFE_S = 0.05, 5.0, 10.0

    def __init__(self) -> None:
        self._short_lives = 0

    def after_life_of(self, lived_s: float) -> float:
        """Seconds to wait after a death that ended a life of `lived_s` seconds."""
        if lived_s >= self.LONG_LIFE_S:
            self._short_lives = 0
        self._short_lives += 1
        if self._short_lives == 1:
            return 0.0
        doublings = min(self._short_lives - 2, 32)
        return min(self.MOST_S, self.FIRST_S * 2.0**doublings)


@dataclass
class Child:
    """One child and what is known of it.

    Attributes:
        name: for messages and metrics.
        argv: command line.
        is_up: whether the process of that pid does its work; asked at each turn until it is true.
        stage: children are stopped by it.
        after: a child is started for the first time when all of lower stages than this are up; None: than its own.
        environ, pass_fds: as for subprocess.Popen.
        grace_s: how long it may take to end when it is told to, at most; then it is killed.
        pid: of the living process; None if there is none.
        up: `is_up` was true in this life.
        ever_up: it was true in some life.
        failures: deaths in a row before being up.
        wanted: it shall be started again when it dies.
        status: exit status of its last life; negative: the signal.
    """

    name: str
    argv: Sequence[str]
    is_up: Callable[[int], bool]
    stage: int = 0
    environ: Mapping[str, str] = field(default_factory=dict)
    pass_fds: Sequence[int] = ()
    grace_s: float = math.inf
    after: int | None = None
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
        """It was up once, and now fails to start again and again. It is still tried, every few seconds."""
        return self.failures >= TRIES

    @property
    def gone(self) -> bool:
        """No process of it is left."""
        return self.pid is None and self._group is None

    def spawn(self, now: float, cwd: Path) -> None:
        """Start the process. Its standard output goes to standard error, which is where logs belong."""
        self._process = subprocess.Popen(
            self.argv,
            env=dict(self.environ),
            pass_fds=self.pass_fds,
            cwd=cwd,
            process_group=0,
            stdin=subprocess.DEVNULL,
            stdout=2,
        )
        self.pid = self._group = self._process.pid
        self.up, self._started_at = False, now

    def not_spawned(self, now: float, error: OSError) -> None:
        """Note that no process could be made and plan the next try. Want of descriptors or of memory passes: it counts
        as no failure of the child's."""
        self.status = SPAWN_FAILED
        self.failures += not scarcity.is_scarcity(error)
        self._start_at = now + max(self._backoff.after_life_of(0.0), Backoff.FIRST_S)

    def buried(self, now: float, wait_status: int) -> None:
        """Note that the process was reaped and plan the next start."""
        self.status = os.waitstatus_to_exitcode(wait_status)
        assert self._process is not None
        self._process.returncode = self.status  # reaped by us: subprocess must not wait for it
        self._process = self.pid = None
        self.failures = 0 if self.up else self.failures + 1
        self.up = False
        self._start_at = now + self._backoff.after_life_of(now - self._started_at)

    def clear_group(self) -> None:
        """Kill what a dead leader left of its group; forget the group when nothing is left."""
        if self.pid is None and self._group is not None:
            try:
                os.killpg(self._group, signal.SIGKILL)
            except ProcessLookupError:
                self._group = None

    def is_due(self, now: float) -> bool:
        """Whether it shall be started now."""
        return self.wanted and self.gone and now >= self._start_at

    def send(self, number: int) -> None:
        """Send a signal to the process, if there is one; SIGKILL to its whole group.

        SIGTERM is followed by SIGCONT to the group: a process that somebody stopped would not see it.
        """
        with contextlib.suppress(ProcessLookupError):
            if self.pid is not None:
                os.kill(self.pid, number)
            if self._group is not None and number == signal.SIGKILL:
                os.killpg(self._group, number)
            elif self._group is not None and number == signal.SIGTERM:
                os.killpg(self._group, signal.SIGCONT)


class Children:
    """All children of this process.

    Attributes:
        restarts: how often each was started again.
    """

    def __init__(self, cwd: Path) -> None:
        """`cwd`: where children run; `python -m` finds its modules there first."""
        self._cwd = cwd
        self._children: list[Child] = []
        self.restarts: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Child]:
        return iter(self._children)

    def add(self, child: Child) -> Child:
        """Start `child` when its stage comes, and keep it alive."""
        self._children.append(child)
        self.restarts[child.name] = 0
        return child

    def once(self, name: str, argv: Sequence[str], environ: Mapping[str, str], now: float) -> Child:
        """Start a child that is not started again when it ends; see its `gone` and `status`, then `forget` it.

        Raises `OSError`.
        """
        child = Child(name, argv, lambda _: False, stage=-1, environ=environ, wanted=False)
        child.spawn(now, self._cwd)
        self._children.append(child)
        return child

    def forget(self, child: Child) -> None:
        """Drop a child that is gone."""
        self._children.remove(child)

    def all_up(self, below: int | None = None) -> bool:
        """Whether all children (of stages lower than `below`) are up."""
        return all(child.up for child in self._children if child.wanted and (below is None or child.stage < below))

    def turn(self, now: float) -> None:
        """Reap, start what is due, see who is up. `now`: time.monotonic(). Raises `CannotStart`."""
        self._reap(now)
        for child in self._children:
            child.clear_group()
            below = child.stage if child.after is None else child.after
            if child.is_due(now) and (child.ever_up or self.all_up(below=below)):
                self._spawn(child, now)
            if child.pid is not None and not child.up and child.is_up(child.pid):
                child.up = child.ever_up = True
                child.failures = 0

    def _spawn(self, child: Child, now: float) -> None:
        try:
            child.spawn(now, self._cwd)
        except OSError as error:
            child.not_spawned(now, error)
            log.warning("%s cannot be started now, and is tried again: %s", child.name, error)
            self._refuse_hopeless(child, f"cannot be spawned ({error})")
            return
        if child.ever_up or child.failures:
            self.restarts[child.name] += 1

    def _reap(self, now: float) -> None:
        """Bury every dead child, orphans of dead children included, without waiting."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in self._children:
                if child.pid == pid:
                    self._bury(child, now, wait_status)

    def _bury(self, child: Child, now: float, wait_status: int) -> None:
        pid, was_up = child.pid, child.up
        child.buried(now, wait_status)
        if not child.wanted:
            return
        status = child.status
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        log.warning("%s (pid %s) %s%s", child.name, pid, how, "" if was_up else " before it was up")
        self._refuse_hopeless(child, f"{how}, {TRIES} times; its own words are above")

    @staticmethod
    def _refuse_hopeless(child: Child, how: str) -> None:
        if not child.ever_up and child.failures >= TRIES:
            raise CannotStart(f"{child.name} cannot be started: it {how}")

    def stop(self, stage: int, number: int) -> None:
        """Send signal `number` to all children of a stage, which are not wanted any more."""
        for child in self._children:
            if child.stage == stage:
                child.wanted = False
                child.send(number)

    def kill_late(self, stage: int, waited_s: float, patience_s: float) -> None:
        """Kill those of a stage that do not end, `waited_s` after they were told to: nobody waits for longer than
        `patience_s`, nor than the child's own grace."""
        for child in self._children:
            if child.stage == stage and waited_s >= min(patience_s, child.grace_s):
                child.send(signal.SIGKILL)

    def is_stage_gone(self, stage: int) -> bool:
        """Whether nothing is left of a stage."""
        return all(child.gone for child in self._children if child.stage == stage)


def parent_of(pid: int) -> int:
    """The parent of `pid`, 0 if there is no such process."""
    try:
        # The name in parentheses may hold anything, so what follows its last parenthesis is read: state, parent.
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def is_descendant(pid: int, ancestor: int) -> bool:
    """Whether `pid` is a living process that `ancestor`, or one of its descendants, started."""
    seen = 0
    while pid > 1 and seen < 64:
        pid, seen = parent_of(pid), seen + 1
        if pid == ancestor:
            return True
    return False
