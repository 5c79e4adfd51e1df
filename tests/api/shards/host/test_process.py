"""What every process does with its streams, with systemd and with its parent."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shards.host.process import PARENT_VARIABLE, mute_stream, notify_systemd, read_scheduling


def run(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", f"from shards.host.process import *; import os, sys; {code}"]
    return subprocess.run(program, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_no_file_gets_the_number_of_a_closed_stream(closed: int) -> None:
    opened = f"os.readlink('/proc/self/fd/{closed}')"
    code = f"keep_standard_streams(); assert os.open('/dev/zero', 0) > 2; assert {opened} == '/dev/null'"
    assert run(code, preexec_fn=lambda: os.close(closed)).returncode == 0


def test_a_muted_stream_fails_no_more(tmp_path: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as stream:
        stream.write("nobody reads this")
        mute_stream(stream)
        stream.flush()
    mute_stream(None)


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_gets_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    path = f"@kvserver-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + path[1:] if abstract else path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        notify_systemd("READY=1")
        assert listener.recv(100) == b"READY=1"
    notify_systemd("STOPPING=1")  # nobody listens: no error


def test_a_process_and_its_threads_are_scheduled_as_asked() -> None:
    code = (
        "from threading import Thread; schedule_process({!r}); print(read_scheduling(0));"
        "thread = Thread(target=lambda: print(read_scheduling(0))); thread.start(); thread.join()"
    )
    assert run(code.format("batch")).stdout.split() == ["batch", "batch"]
    assert run(code.format("normal")).stdout.split() == ["normal", "normal"]
    as_started = "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0));"
    assert run(as_started + code.format("normal")).stdout.split() == ["batch", "batch"]


def test_the_scheduling_of_a_process_that_is_gone_is_unknown() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    assert read_scheduling(gone.pid) == "unknown"


@pytest.mark.parametrize(
    ("own", "expected"),
    [("SCHED_OTHER", "SCHED_BATCH"), ("SCHED_BATCH", "SCHED_BATCH"), ("SCHED_IDLE", "SCHED_IDLE")],
)
def test_helpers_interrupt_nobody_and_keep_a_policy_that_the_process_was_given(own: str, expected: str) -> None:
    start = f"os.sched_setscheduler(0, os.{own}, os.sched_param(0))"
    assert run(f"{start}; print(policy_of_helpers() == os.{expected})").stdout == "True\n"


def test_a_child_of_another_parent_ends_at_once() -> None:
    environ = os.environ | {PARENT_VARIABLE: "1"}
    assert run("die_with_starter(); print('alive')", env=environ).returncode == 1
    assert run("die_with_starter(); print('alive')").stdout == "alive\n"
