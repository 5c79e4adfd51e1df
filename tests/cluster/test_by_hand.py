"""Three machines on one host, as the manual has them: its lines are run, on ports that are free."""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvserver.commands.cluster.demo import free_ports
from tests.system.deployed import free_port
from tests.system.harness import wait_for
from tests.system.kvserver.commands.programs import environ

MANUAL = Path(__file__).parents[2] / "kvserver" / "manual" / "cluster.md"
WAIT_S = 120.0


class Terminals:
    """Terminals of one user: what was exported in one before the servers is exported in all."""

    def __init__(self, place: Path) -> None:
        self._place, self._running = place, dict[str, subprocess.Popen[bytes]]()
        variables = {f"XDG_{name}": str(place) for name in ("RUNTIME_DIR",)} | {"TMPDIR": str(place)}
        self._environ = environ(**variables)

    def export(self, line: str) -> None:
        self._environ |= dict(part.split("=", 1) for part in line.removeprefix("export ").split())

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        """A command that ends."""
        shell = ["bash", "-c", line]
        return subprocess.run(
            shell, cwd=self._place, env=self._environ, capture_output=True, text=True, timeout=WAIT_S, check=False
        )

    def start(self, name: str, line: str) -> subprocess.Popen[bytes]:
        """A command that goes on."""
        with (self._place / f"{name}.said").open("wb") as said:
            self._running[name] = subprocess.Popen(
                line.split(), cwd=self._place, env=self._environ, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
        return self._running[name]

    def said(self, name: str) -> str:
        return (self._place / f"{name}.said").read_text()

    def close(self) -> None:
        for process in self._running.values():
            process.send_signal(signal.SIGINT)
        for process in self._running.values():
            process.wait(60)


@pytest.fixture
def terminals() -> Iterator[Terminals]:
    with tempfile.TemporaryDirectory(prefix="kv-", dir="/tmp") as place:
        made = Terminals(Path(place))
        try:
            yield made
        finally:
            made.close()


def lines_of_manual() -> list[str]:
    """The commands of the chapter's section, with ports that are free."""
    section = MANUAL.read_text().partition("### Three on one host")[2]
    text = section.partition("```sh\n")[2].partition("```")[0]
    ports = {port: next(engines) for engines in [free_ports()] for port in (4222, 4322, 4422)}
    ports |= {port: free_port() for port in (8081, 8082, 8083, 3001, 3002, 3003)}
    assert {int(port) for port in re.findall(r"[ :](\d{4})\b", text)} == set(ports)
    return re.sub(r"(?<=[ :])\d{4}\b", lambda found: str(ports[int(found[0])]), text).splitlines()


@pytest.mark.timeout(400)
def test_the_lines_of_the_manual_make_a_cluster(terminals: Terminals) -> None:
    secret, export, a, b, c, init, status = lines_of_manual()
    assert terminals.run(secret).returncode == 0
    terminals.export(export)
    terminals.start("a", a)
    wait_for(lambda: "Server is ready" in terminals.said("a"), "the engine of a", WAIT_S)
    # What two machines on one host must not share is said, with the option that gives another one.
    port, metrics = (re.findall(rf"--{name} (\d+)", a)[0] for name in ("port", "metrics-port"))
    for line, told in (
        (re.sub(r"--port \d+", f"--port {port}", b), f"port {port} on 127.0.0.1 is taken: choose another with --port"),
        (re.sub(r"--metrics-port \d+", f"--metrics-port {metrics}", b), "is taken: choose another with --metrics-port"),
        (b.replace("data-b", "data-a"), "data-a is served by another process"),
        (b.replace("--node b", "--node a"), "is taken, by another process, but the engine of a needs the ports"),
        (b.replace("--node b", "--node d"), "--node is d, but --cluster names a, b, c: name this machine, too"),
    ):
        refused = terminals.run(line)
        assert refused.returncode in (1, 2) and told in refused.stderr, refused.stderr
    # A machine that is missing is named; the order begins when all are there.
    beginning = terminals.start("init", init)
    wait_for(lambda: "waiting for c at " in terminals.said("init"), "what it waits for", WAIT_S)
    assert "Connection refused): start its server, with the same --cluster" in terminals.said("init")
    terminals.start("b", b)
    terminals.start("c", c)
    assert beginning.wait(WAIT_S) == 0, terminals.said("init")
    assert "the order of a, b, c has begun" in terminals.said("init")
    wait_for(lambda: terminals.run(status).returncode == 0, "all are current", WAIT_S)
    assert [line.split()[2] for line in terminals.run(status).stdout.splitlines()[1:]] == ["current"] * 3
