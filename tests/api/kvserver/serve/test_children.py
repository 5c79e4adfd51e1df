"""Children that are small Python programs: started in stages, started again, given up, stopped, never left behind."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvserver.serve.children import TRIES, Backoff, CannotStart, Child, Children, is_descendant, parent_of
from shards.host.process import become_subreaper
from tests.system.harness import wait_for

PR_SET_CHILD_SUBREAPER = 36

FOREVER = "import time\nwhile True: time.sleep(60)"
STUBBORN = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint(flush=True)\n{FOREVER}"


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    become_subreaper()
    made = Children(tmp_path)
    yield made
    for child in made:
        child.wanted = False
        child.send_signal(signal.SIGKILL)
    wait_until(made, lambda: all(child.is_gone for child in made), "the end of all")
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)  # other tests' orphans are not ours to reap


def wait_until(children: Children, condition: Callable[[], object], what: str) -> None:
    """Turn until `condition()`."""

    def turned() -> object:
        children.reap_and_start(time.monotonic())
        return condition()

    wait_for(turned, what)


def program(name: str, code: str, stage: int = 0, is_up: Callable[[int], bool] = lambda _: True) -> Child:
    return Child(name, [sys.executable, "-c", code], is_up, stage, dict(os.environ))


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_later_stages_wait_until_earlier_ones_are_up(children: Children, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    first = children.add(program("first", FOREVER, 0, lambda _: ready.exists()))
    second = children.add(program("second", FOREVER, 1))
    for _ in range(20):
        children.reap_and_start(time.monotonic())
    assert first.pid is not None
    assert second.pid is None
    ready.touch()
    wait_until(children, lambda: children.all_up(), "both")
    assert second.pid is not None


def test_a_child_need_not_wait_for_all_that_is_stopped_after_it(children: Children) -> None:
    never = children.add(program("never up", FOREVER, 1, lambda _: False))
    eager = children.add(program("eager", FOREVER, 2))
    eager.after = 1
    wait_until(children, lambda: eager.up, "the start of the eager one")
    assert not never.up


def test_what_dies_is_started_again_at_once_and_counted(children: Children) -> None:
    child = children.add(program("one", FOREVER))
    wait_until(children, lambda: child.up, "the start")
    first = child.pid
    child.send_signal(signal.SIGKILL)
    # The same instant: a first restart does not wait for the clock.
    now = time.monotonic()
    wait_for(lambda: children.reap_and_start(now) or child.pid not in (None, first), "the restart")
    assert children.restarts == {"one": 1}


def test_a_restart_does_not_wait_for_other_stages(children: Children) -> None:
    early = children.add(program("early", FOREVER, 0))
    late = children.add(program("late", FOREVER, 1))
    wait_until(children, lambda: children.all_up(), "both")
    before, early.is_up = late.pid, lambda _: False
    early.send_signal(signal.SIGKILL)
    late.send_signal(signal.SIGKILL)
    wait_until(children, lambda: late.up and late.pid != before and not early.up, "the late one again, and it alone")


def test_what_never_came_up_ends_it_all_with_its_name(children: Children) -> None:
    children.add(program("broken", "raise SystemExit(7)", is_up=lambda _: False))
    with pytest.raises(CannotStart, match=rf"broken.*exit status 7, {TRIES} times"):
        wait_until(children, lambda: False, "nothing")


def test_what_cannot_be_spawned_counts_as_dead(children: Children, tmp_path: Path) -> None:
    child = children.add(Child("missing", [str(tmp_path / "nothing")], lambda _: True, 0, {}))
    with pytest.raises(CannotStart, match=r"cannot start missing: it cannot be spawned .*No such file"):
        wait_until(children, lambda: False, "nothing")
    assert child.failures == TRIES


def test_want_of_descriptors_only_delays_a_start(children: Children, caplog: pytest.LogCaptureFixture) -> None:
    child = children.add(program("one", FOREVER))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The lowest that is free now: nothing more can be opened.
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        now = time.monotonic()
        for _ in range(3 * TRIES):
            children.reap_and_start(now)
            now += Backoff.MOST_S
        assert (child.pid, child.failures) == (None, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "cannot start one now" in caplog.text and "Too many open files" in caplog.text
    children.reap_and_start(now)
    assert child.pid is not None
    assert children.restarts == {"one": 0}


def test_what_was_up_once_is_given_up_but_tried_again(children: Children, tmp_path: Path) -> None:
    fails = tmp_path / "fails"
    code = f"from pathlib import Path\nif Path({str(fails)!r}).exists(): raise SystemExit(1)\n{FOREVER}"
    up = [True]
    child = children.add(program("one", code, is_up=lambda _: up[0]))
    wait_until(children, lambda: child.up, "the start")
    up[0] = False
    fails.touch()
    child.send_signal(signal.SIGKILL)
    wait_until(children, lambda: child.given_up, "giving up")
    fails.unlink()
    up[0] = True
    wait_until(children, lambda: child.up, "the start after all")
    assert not child.given_up


def test_what_a_dead_leader_leaves_is_killed_before_its_restart(children: Children, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        f"open({str(pids)!r}, 'a').write(str(child.pid) + '\\n')\n{FOREVER}"
    )
    leader = children.add(program("leader", code, is_up=lambda _: pids.exists()))
    wait_until(children, lambda: leader.up and pids.read_text().endswith("\n"), "the group")
    orphan, first = int(pids.read_text()), leader.pid
    assert is_descendant(orphan, os.getpid())
    os.kill(first or 0, signal.SIGKILL)  # the leader alone
    wait_until(children, lambda: leader.pid not in (None, first), "the restart")
    assert not lives(orphan)


def test_orphans_of_children_are_reaped(children: Children, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    # The grandchild leads a session of its own, so that nobody but its new parent can care.
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE, start_new_session=True)\n"
        f"open({str(note)!r}, 'w').write(str(child.pid) + '\\n')\n"
    )
    once = children.start_once("parent", [sys.executable, "-c", code], dict(os.environ), time.monotonic())
    wait_until(children, lambda: once.is_gone, "the parent's end")
    wait_until(children, lambda: not lives(int(note.read_text())), "the orphan's end")


def test_a_child_for_once_tells_its_status_and_is_not_started_again(children: Children) -> None:
    once = children.start_once(
        "once", [sys.executable, "-c", "raise SystemExit(3)"], dict(os.environ), time.monotonic()
    )
    wait_until(children, lambda: once.is_gone, "its end")
    for _ in range(10):
        children.reap_and_start(time.monotonic())
    assert (once.status, once.pid) == (3, None)
    children.drop_child(once)
    assert list(children) == []
    assert "once" not in children.restarts


def test_stopping_a_stage_leaves_the_others(children: Children) -> None:
    early = children.add(program("early", FOREVER, 0))
    late = children.add(program("late", FOREVER, 1))
    wait_until(children, lambda: children.all_up(), "both")
    children.stop_stage(1, signal.SIGTERM)
    wait_until(children, lambda: children.is_stage_gone(1), "the late one's end")
    for _ in range(10):
        children.reap_and_start(time.monotonic())
    assert late.pid is None
    assert early.up
    assert not children.is_stage_gone(0)


def test_what_somebody_stopped_ends_by_itself_when_it_is_told_to(children: Children, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = (
        "import os, pathlib, signal\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(3))\n"
        f"if os.fork(): pathlib.Path({str(ready)!r}).write_text('')\n{FOREVER}"
    )
    leader = children.add(program("leader", code, is_up=lambda _: ready.exists()))
    wait_until(children, lambda: leader.up, "the start")
    assert leader.pid is not None
    os.killpg(leader.pid, signal.SIGSTOP)
    children.stop_stage(0, signal.SIGTERM)
    wait_until(children, lambda: children.is_stage_gone(0), "the end of the group")
    assert leader.status == 3


def test_who_does_not_end_within_its_grace_is_killed_and_nobody_else(children: Children, tmp_path: Path) -> None:
    def ignores(name: str, grace_s: float) -> Child:
        ready = tmp_path / name
        code = STUBBORN.replace("print(flush=True)", f"import pathlib\npathlib.Path({str(ready)!r}).touch()")
        child = program(name, code)
        child.is_up, child.grace_s = lambda _: ready.exists(), grace_s
        return children.add(child)

    short, long = ignores("short", 2.0), ignores("long", 100.0)
    wait_until(children, lambda: children.all_up(), "both")
    children.stop_stage(0, signal.SIGTERM)
    children.kill_late(0, 1.9, 15.0)
    children.reap_and_start(time.monotonic())
    assert short.pid is not None and long.pid is not None
    children.kill_late(0, 2.0, 15.0)
    wait_until(children, lambda: short.is_gone, "the end of the one that has nothing to finish")
    assert long.pid is not None
    children.kill_late(0, 15.0, 15.0)
    wait_until(children, lambda: children.is_stage_gone(0), "the end of the other")


def test_sigkill_reaches_the_whole_group(children: Children, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = (
        f"import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', {FOREVER!r}])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid) + '\\n')\n{FOREVER}"
    )
    leader = children.add(program("leader", code, is_up=lambda _: note.exists()))
    wait_until(children, lambda: leader.up and note.read_text().endswith("\n"), "the group")
    children.stop_stage(0, signal.SIGKILL)
    wait_until(children, lambda: children.is_stage_gone(0), "the end of the group")
    assert not lives(int(note.read_text()))


def test_standard_output_of_children_goes_to_standard_error(
    children: Children, capfd: pytest.CaptureFixture[str]
) -> None:
    once = children.start_once("once", [sys.executable, "-c", "print('said')"], dict(os.environ), time.monotonic())
    wait_until(children, lambda: once.is_gone, "its end")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "said\n")


def test_parents_and_descendants() -> None:
    assert parent_of(os.getpid()) == os.getppid()
    assert is_descendant(os.getpid(), os.getppid())
    assert not is_descendant(os.getppid(), os.getpid())
    assert not is_descendant(1, os.getpid())
    assert parent_of(1 << 30) == 0
