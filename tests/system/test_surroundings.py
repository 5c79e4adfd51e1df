"""What a platform, a shell or an editor may do to the commands: variables, closed streams, marks, final newlines."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx
import pytest

from kvserver.settings import ServerSettings
from shards.host.settings import env_name, ignored_variables, setting_specs
from tests.system.commands import command
from tests.system.harness import Server, wait_for

LINKS: Final = ["tcp://10.96.12.7:8080", "udp://10.96.12.7:53", "sctp://[fd00::7]:9", "tcp://kvserver:8080"]
SERVICES: Final = ("KVSERVER", "KVSERVER_METRICS", "KVSERVER_FEED", "METRICS")


def injected(link: str) -> dict[str, str]:
    """What Kubernetes puts into every container for services of these names."""
    found = {}
    for service in SERVICES:
        found |= {
            f"{service}_SERVICE_HOST": "10.96.12.7",
            f"{service}_SERVICE_PORT": "8080",
            f"{service}_PORT": link,
            f"{service}_PORT_8080_TCP": link,
            f"{service}_PORT_8080_TCP_PROTO": "tcp",
            f"{service}_PORT_8080_TCP_PORT": "8080",
            f"{service}_PORT_8080_TCP_ADDR": "10.96.12.7",
        }
    return found


IGNORED: Final = ("KVSERVER_PORT", "METRICS_PORT", "KVSERVER_METRICS_PORT", "KVSERVER_FEED_PORT")


def test_a_server_starts_among_services_of_its_name(new_server: Callable[..., Server]) -> None:
    server = new_server(environ=injected(LINKS[0]))
    with server.start():
        httpx.put(f"{server.url}/k", content="v", trust_env=False).raise_for_status()
        told = [line for line in server.log().splitlines() if "is ignored" in line]  # each by one process, once
    assert sorted(line.split("WARNING ")[1].split("=")[0] for line in told) == sorted(IGNORED), told


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("name", ["backup", "restore", "check", "stop", "token list", "export", "import"])
def test_every_command_runs_among_services_of_its_name(name: str, link: str, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("")
    (tmp_path / "tokens").chmod(0o600)
    rest = {
        "backup": ["to"],
        "restore": ["from"],
        "check": [],
        "stop": [],
        "token list": ["--tokens", "tokens"],
        "export": ["out", "--patience", "0"],
        "import": ["tokens", "--patience", "0"],
    }[name]
    environ = {key: text for key, text in os.environ.items() if not key.startswith("KVSERVER_")}
    done = subprocess.run(
        [sys.executable, "-m", "kvserver", *name.split(), *rest],
        env=environ | injected(link),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in (0, 1), done
    told = [line for line in done.stderr.splitlines() if "ignored" in line]
    assert sorted(line.split("=")[0] for line in told) == sorted(f"kvserver: {each}" for each in IGNORED), done


def test_a_variable_that_is_no_link_is_still_looked_at() -> None:
    environ = {"KVSERVER_PORT": "tcp://10.96.12.7", "METRICS_PORT": "tcp:80"}
    assert list(ignored_variables(ServerSettings, environ)) == []
    assert len(
        list(ignored_variables(ServerSettings, {env_name(name): LINKS[0] for name in setting_specs(ServerSettings)}))
    ) == len(setting_specs(ServerSettings))


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&- <&-", ">/dev/full", "| true", "2>/dev/full"])
def test_a_server_needs_no_standard_stream(closed: str, new_server: Callable[..., Server], free_port: int) -> None:
    server = new_server("--port", str(free_port))
    line = f"{shlex.join(server.command())} {closed}"
    with server.log_path.open("ab") as log:
        server.process = subprocess.Popen(
            ["bash", "-c", line if "|" in closed else f"exec {line}"],
            stdout=subprocess.DEVNULL,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    server.host, server.port = "127.0.0.1", free_port
    wait_for(lambda: is_ready(server), "an answer", 60)
    if closed in (">/dev/full", "| true"):
        wait_for(lambda: "cannot write to standard output" in server.log(), "a word of the banner")
    done = subprocess.run(command(server, "stop"), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done
    server.process.wait(30)


def is_ready(server: Server) -> bool:
    try:
        return httpx.get(f"{server.url}/health/ready", trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def free_port() -> int:
    """A port that is free right now: a server without standard output cannot tell its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
