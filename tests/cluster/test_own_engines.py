"""Servers that start their own engines: TLS between them, what becomes of engines, and an order that is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvserver.client import Client
from kvserver.commands.cluster.demo import free_ports
from kvserver.serve.cluster.addresses import MONITOR_OFFSET
from kvserver.serve.cluster.engine_config import Tls
from tests.cluster.certificates import Authority, settings_of
from tests.cluster.engine_of import engine_of
from tests.cluster.own_engines import OwnEngines, own_engines
from tests.system.harness import Server, wait_for
from tests.system.kvserver.commands.programs import program, run


@pytest.mark.timeout(400)
@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificates")
def test_all_between_the_machines_is_by_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with own_engines(**settings_of(authority.sign("machines"))) as servers:
        with Client(servers.all[0].url) as kv, Client(servers.all[2].url) as other:
            kv.put("k", "v")
            assert other["k"] == b"v"
        for machine in servers.machines:
            with urllib.request.urlopen(f"http://{machine.monitor}/varz", timeout=10) as answer:
                told: dict[str, Any] = json.loads(answer.read())
            assert told["tls_required"] and told["tls_verify"] and told["cluster"]["tls_required"]
            assert told["jetstream"]["config"]["sync_always"]
            with pytest.raises((ssl.SSLError, OSError)):
                ssl.get_server_certificate(("127.0.0.1", machine.port), timeout=5)  # it greets before TLS
        a, _, c = servers.all
        c.stop()
        refuse_certificates(c, authority, tmp_path)
        (tmp_path / "foreign").mkdir()
        good, foreign = c.options, Authority(tmp_path / "foreign").sign("machines")
        c.options = (*good, *options_of(foreign))
        c.spawn()
        wait_for(lambda: "[ERR]" in c.log() and "signed by unknown authority" in c.log(), "the engine says why", 60)
        assert [node["member"] for node in a.status()["cluster"]["nodes"]] == [True, True, False]
        c.stop()
        c.options = good
        c.start()
        with Client(c.url, patience=60) as kv:
            assert kv["k"] == b"v"


def options_of(tls: Tls) -> list[str]:
    return [word for name, file in settings_of(tls).items() for word in (f"--{name.replace('_', '-')}", str(file))]


def refuse_certificates(server: Server, authority: Authority, place: Path) -> None:
    """Check that a server does not start with a certificate that others would refuse, nor does `init` with one."""
    words = options_of(authority.sign("expired", days=-1))
    done = program(None, "serve", *server.options, *words, "--data-dir", str(place / "none"))
    assert done.returncode == 1 and b"which other machines would refuse: certificate has expired" in done.stderr
    options = server.options[: server.options.index("--workers")]
    done = program(None, "cluster", "init", *options, *words)
    assert done.returncode == 2 and b"certificate has expired" in done.stderr
    missing = program(None, "cluster", "init", *options, "--cluster-tls-key", str(place / "nowhere"))
    assert missing.returncode == 2 and b"nowhere cannot be read: TLS between the machines needs it" in missing.stderr


@pytest.mark.timeout(400)
def test_an_engine_that_dies_is_started_again_and_an_order_that_is_lost_is_not_replaced() -> None:
    with own_engines() as servers:
        first = servers.all[0]
        assert first.log().count("Starting nats-server") == 1, "the one that ran before the store was made runs on"
        refuse_namesake(servers)
        before = engine_of(first)
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: engine_of(first) != before, "another engine", 30)
        with Client([server.url for server in servers.all], patience=30) as kv:
            kv.put_many((f"kept/{number}", str(number)) for number in range(100))
        for server in servers.all:
            server.stop()
        for server in servers.all:
            shutil.rmtree(server.data_dir / "engine" / "jetstream")
        for server in servers.all:
            server.spawn()
        wait_for(lambda: "`kvserver cluster reset --from-this-machine`" in first.log(), "that the order is lost", 90)
        for server in servers.all:
            server.kill()
        backup, alone = first.data_dir.parent / "backup", first.data_dir.parent / "alone"
        assert run(None, "backup", str(backup), "--data-dir", str(first.data_dir)).returncode == 0
        assert run(None, "restore", str(backup), "--data-dir", str(alone)).returncode == 0
        with Server(alone) as rescued, Client(rescued.url) as kv:
            assert {item.key for item in kv.scan("kept/")} == {f"kept/{number}" for number in range(100)}


def refuse_namesake(servers: OwnEngines) -> None:
    """Check that a new server with the name of a machine that works does not start, and does that one no harm."""
    place = [*servers.machines]
    place[0] = replace(place[0], port=next(iter(free_ports())))
    options = servers.options("a")
    options[options.index("--cluster") + 1] = ",".join(f"{machine.name}={machine.address}" for machine in place)
    twin = Server(servers.secret.parent / "twin", *options, "--workers", "1")
    try:
        assert twin.spawn().wait(60) == 1
        assert "another machine works under the name 'a'" in twin.log() and "stop the machine" in twin.log()
    finally:
        twin.close()
    with Client(servers.all[0].url) as kv:
        kv.put("kept", "by the first")


def test_a_port_that_another_has_is_said_at_once(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 32)
    secret.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1] - MONITOR_OFFSET
        command = f"serve --node a --cluster a=127.0.0.1:{port} --port 0 --metrics-port 0".split()
        paths = ["--cluster-secret", str(secret), "--data-dir", str(tmp_path / "data")]
        done = subprocess.run(
            [sys.executable, "-m", "kvserver", *command, *paths], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 1
    assert f"port {port + MONITOR_OFFSET} on 127.0.0.1 is taken, by another process" in done.stderr
    assert f"the engine of a needs the ports {port}, {port + 2000}, {port + 4000} for itself" in done.stderr
