"""A wall clock of a test says what it was set to, and nothing else changes: else tests with it would show nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.cluster.clocks import WallClock, require_compiler

TELL = """
import time
for _ in iter(input, ""):
    before = time.monotonic()
    time.sleep(0.05)
    assert time.monotonic() >= before + 0.05
    boot, steady = (time.clock_gettime(getattr(time, "CLOCK_" + name)) for name in ("BOOTTIME", "MONOTONIC"))
    print(time.time(), time.time_ns() / 1e9, time.localtime and time.mktime(time.localtime()), boot, steady, flush=True)
"""


def test_it_is_set_while_a_process_runs(tmp_path: Path) -> None:
    require_compiler()
    clock = WallClock(tmp_path / "clock")
    with subprocess.Popen(
        [sys.executable, "-c", TELL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | clock.environ,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for ahead in (0, 3600, -3600):
            clock.set_ahead(ahead)
            true = [time.time()] * 3 + [time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic()]
            process.stdin.write("tell\n")
            process.stdin.flush()
            told = list(map(float, process.stdout.readline().split()))
            late = [said - was for said, was in zip(told, true, strict=True)]
            assert all(abs(seconds - ahead) < 60 for seconds in late[:3]), late
            assert all(0 <= seconds < 60 for seconds in late[3:]), late
        process.stdin.write("\n")
