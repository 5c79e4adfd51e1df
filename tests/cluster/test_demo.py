"""`kvserver cluster demo` as people use it, and with it servers that start their own engines."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvserver.client import Client
from kvserver.commands.cluster.demo import free_ports
from kvserver.serve.cluster.addresses import MONITOR_OFFSET, ROUTE_OFFSET
from tests.system.harness import wait_for
from tests.system.kvserver.commands.programs import PROGRAM, environ, fail, program

READY_S = 120.0


class Demo:
    """A demonstration that is ready.

    Attributes:
        urls: of the servers, in the order of their names.
        pids: of their supervisors, by name.
        place: its temporary directory.
    """

    def __init__(self, tmp: Path) -> None:
        self._output, self._tmp = tmp / "output", tmp
        with self._output.open("wb") as output:
            variables = environ(TMPDIR=str(tmp))
            self._process = subprocess.Popen(
                [PROGRAM, "cluster", "demo"], stdout=output, stderr=output, env=variables, stdin=subprocess.DEVNULL
            )
        wait_for(lambda: "\nready" in self.output or self._process.poll() is not None, "the demonstration", READY_S)
        assert "\nready" in self.output, self.output
        found = re.findall(r"^([abc])  (http://\S+)  \(pid (\d+)\)$", self.output, re.MULTILINE)
        self.urls = [url for _, url, _ in found]
        self.pids = {name: int(pid) for name, _, pid in found}
        (self.place,) = tmp.glob("kv-demo-*")

    @property
    def output(self) -> str:
        """What it has said."""
        return self._output.read_text()

    def end(self) -> int:
        """Press Ctrl-C, and return the exit status."""
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(60)

    def processes(self) -> list[int]:
        """All processes of its servers."""
        wanted, found = str(self.place).encode(), []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if wanted in (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes():
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found

    def kill(self) -> None:
        """End it, whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="kv-", dir="/tmp") as place:  # short: sockets live there
        made = Demo(Path(place))
        try:
            yield made
        finally:
            made.kill()


@pytest.mark.timeout(300)
def test_it_is_a_cluster_until_ctrl_c(demo: Demo) -> None:
    first, second, third = demo.urls
    put, get = re.findall(r"^  curl (.*)$", demo.output, re.MULTILINE)
    assert subprocess.run(["curl", "-sf", *put.split()], timeout=60).returncode == 0
    assert subprocess.run(["curl", "-sf", *get.split()], timeout=60, capture_output=True).stdout == b"hello"
    status = ("cluster", "status", *(word for url in demo.urls for word in ("--url", url)))
    wait_for(lambda: program(None, *status).returncode == 0, "all machines are current", 60)
    said = program(None, *status)
    assert [line.split()[:3] for line in said.stdout.decode().splitlines()[1:]] == [
        [name, url, "current"] for name, url in zip("abc", demo.urls, strict=True)
    ]
    with Client(demo.urls, patience=30) as kv, kv.watch("k/") as watch:
        kv.put("k/before", "1")
        os.kill(demo.pids["a"], signal.SIGKILL)
        for number in range(20):
            kv.put(f"k/{number}", "v")
        seen = [next(watch).key for _ in range(21)]  # type: ignore[union-attr]
        assert seen == ["k/before", *(f"k/{number}" for number in range(20))], "once each, in order"
        assert kv["k/19"] == b"v"
    wait_for(lambda: "a has ended" in demo.output, "that a has ended")
    told = program(None, "cluster", "status", "--url", f"{first},{second},{third}")
    assert told.returncode == 1 and b"machine a is out of the cluster" in told.stderr
    assert demo.processes()
    assert demo.end() == 0
    assert not demo.place.exists() and demo.processes() == []


def test_ports_do_not_meet() -> None:
    ports = [port for port, _ in zip(free_ports(), range(20), strict=False)]
    every = [port + offset for port in ports for offset in (0, ROUTE_OFFSET, MONITOR_OFFSET)]
    assert len(set(every)) == len(every) and max(every) < 65_536


def test_a_secret_is_written_once_and_for_this_user_alone(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    assert program(None, "cluster", "secret", str(file)).returncode == 0
    assert (file.stat().st_mode & 0o777, len(file.read_bytes().strip())) == (0o600, 64)
    assert "exists already" in fail(None, 1, "cluster", "secret", str(file))
    assert "No such file" in fail(None, 1, "cluster", "secret", str(tmp_path / "no" / "where"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--node"),
        (["--node", "a", "--cluster", "a=127.0.0.1,b=127.0.0.2,c=127.0.0.3"], "kvserver cluster secret"),
        (["--node", "a", "--cluster", "nats://127.0.0.1:1"], "1, 3 or 5 machines"),
        (["--node", "a", "--cluster", "nats://127.0.0.1:1", "--nodes", "a,b"], "not a, b"),
    ],
)
def test_what_init_needs_is_said(words: list[str], told: str) -> None:
    assert told in fail(None, 2, "cluster", "init", *words)


def test_a_server_alone_is_no_machine_of_a_cluster() -> None:
    assert "cannot be reached" in fail_status("localhost:1")


def fail_status(url: str) -> str:
    done = program(None, "cluster", "status", "--url", url)
    assert done.returncode == 1
    return done.stderr.decode()
