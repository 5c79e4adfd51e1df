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
from pathlib import Path
from typing import Any

import pytest

from kvserver.client import Client
from kvserver.serve.cluster.addresses import MONITOR_OFFSET
from tests.cluster.engine_of import engine_of
from tests.cluster.own_engines import own_engines
from tests.system.harness import Server, wait_for
from tests.system.kvserver.commands.programs import run


def certificates(place: Path) -> dict[str, Path]:
    """An authority, and a certificate of loopback that it signed: the settings of a cluster that name them."""
    made = {name: place / f"{name}.pem" for name in ("ca", "ca_key", "cert", "key", "request")}
    extensions = place / "extensions"
    extensions.write_text("subjectAltName = IP:127.0.0.1\nextendedKeyUsage = serverAuth,clientAuth\n")
    new = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=kvserver"
    signed = f"openssl x509 -req -days 2 -CA {made['ca']} -CAkey {made['ca_key']} -CAcreateserial"
    for command in (
        f"{new} -x509 -days 2 -out {made['ca']} -keyout {made['ca_key']}",
        f"{new} -out {made['request']} -keyout {made['key']}",
        f"{signed} -in {made['request']} -out {made['cert']} -extfile {extensions}",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)
    return {f"cluster_tls_{name}": made[name] for name in ("cert", "key", "ca")}


@pytest.mark.timeout(300)
@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificates")
def test_all_between_the_machines_is_by_tls(tmp_path: Path) -> None:
    with own_engines(**certificates(tmp_path)) as servers:
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


@pytest.mark.timeout(400)
def test_an_engine_that_dies_is_started_again_and_an_order_that_is_lost_is_not_replaced() -> None:
    with own_engines() as servers:
        first = servers.all[0]
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
    assert f"it needs the ports {port}, {port + 2000}, {port + 4000} for itself" in done.stderr
