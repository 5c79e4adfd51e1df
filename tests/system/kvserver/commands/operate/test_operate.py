"""`status`, `ping`, `bench`, `sdk`, `completion` and `stores` against a real server."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from kvserver.sdk.files import FILES, HOME
from tests.system.harness import Server
from tests.system.kvserver.commands.programs import fail, run, succeed


def test_the_state_of_a_server(server: Server) -> None:
    state = json.loads(succeed(server, "status", "--json"))
    assert state["store"] and len(state["shards"]) == 2 and "traffic" in state
    words = succeed(server, "status").decode()
    for found in (state["store"], "0 up pid", "durability", "restarts"):
        assert found in words
    assert "needs a terminal" in fail(server, 2, "top")


def test_a_ping(server: Server) -> None:
    assert succeed(server, "ping").startswith(b"pong  ")
    done = run(server, "ping", "-c", "2", "--interval", "0")
    assert done.stdout.count(b"pong") == 2 and done.stderr.startswith(b"least ")
    assert json.loads(succeed(server, "ping", "--json"))["seconds"] > 0
    assert "cannot be reached" in fail(None, 6, "ping", "--url", "localhost:1", "--patience", "0")


def test_a_measurement_leaves_nothing(server: Server) -> None:
    succeed(server, "put", "mine", "v")
    lines = succeed(server, "bench", "--seconds", "0.2", "--keys", "5", "--value", "100000", "--json").splitlines()
    put, get = map(json.loads, lines)
    assert (put["measured"], get["measured"]) == ("PUT", "GET")
    assert set(put["statuses"]) == {"201", "204"} and set(get["statuses"]) == {"200"}
    assert put["requests"] == sum(put["statuses"].values()) > 0 and put["rate"] > 0
    assert 0 < put["p50_s"] <= put["p99_s"] <= put["most_s"]
    assert b"requests/s" in succeed(server, "bench", "--seconds", "0.1", "--connections", "1")
    assert succeed(server, "ls") == b"mine\n"
    assert "measures http" in fail(None, 2, "bench", "--url", "https://localhost:1")


@pytest.mark.parametrize("language", ["c", "js", "rust"])
def test_a_client_library_is_written(language: str, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "sdk"
    names = succeed_alone("sdk", language, "-o", str(target)).decode().splitlines()
    written = sorted(path for path in target.rglob("*") if path.is_file())
    assert sorted(names) == [str(path) for path in written]
    shipped = {file.place for file in FILES.values() if file.place.startswith(f"{language}/")}
    assert shipped <= {f"{language}/{path.relative_to(target)}" for path in written}
    assert all(path.read_bytes() == (HOME / language / path.relative_to(target)).read_bytes() for path in written)
    assert not any("tests" in path.relative_to(target).parts for path in written)
    assert "already exists" in fail(None, 1, "sdk", language, "-o", str(target))
    written[0].write_text("old")
    succeed_alone("sdk", language, "-o", str(target), "--force")
    assert written[0].read_text() != "old"
    assert "cannot be written" in fail(None, 1, "sdk", language, "-o", "/dev/null/x")


def succeed_alone(*words: str) -> bytes:
    """Run a command that needs no server, which must succeed, and return its data."""
    done = run(None, *words)
    assert done.returncode == 0, done
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_read_by_their_shells(shell: str, tmp_path: Path) -> None:
    script = succeed_alone("completion", shell)
    assert b"_KVSERVER_COMPLETE" in script
    (tmp_path / "script").write_bytes(script)
    if shell == "bash":
        done = subprocess.run(["bash", "-n", str(tmp_path / "script")], capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")


def test_running_stores_are_listed(server: Server) -> None:
    rows = [json.loads(line) for line in succeed_alone("stores", "--json").splitlines()]
    (row,) = [row for row in rows if row["run_dir"] == str(server.run_dir)]
    assert server.process is not None
    assert (row["data_dir"], row["pid"]) == (str(server.data_dir), server.process.pid)
    assert row["urls"] == [f"http://127.0.0.1:{server.port}"] and row["uptime_s"] > 0
    line = next(line for line in succeed_alone("stores").decode().splitlines() if str(server.run_dir) in line)
    assert line.split("\t")[:3] == [str(server.data_dir), str(server.process.pid), row["urls"][0]]


def test_a_board_of_a_stranger_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "board").write_bytes(os.urandom(5000))
    done = run(None, "stores", "--json", KVSERVER_RUN_DIR=str(tmp_path))
    assert done.returncode == 0 and str(tmp_path).encode() not in done.stdout
