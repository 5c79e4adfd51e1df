"""`kvserver check` beside a server and without one; a repair, and the server that is started on what is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.system.commands import kvserver, refused, succeed
from tests.system.harness import Server
from tests.system.load import Load

NewServer = Callable[..., Server]


def test_a_store_is_checked_damaged_and_repaired(new_server: NewServer, tmp_path: Path) -> None:
    server = new_server("--shards", "2", "--workers", "1").start()
    maps = ("--map-dir", server.map_dir)
    with Load((server.host, server.port), writers=2):
        assert succeed(server, "check", *maps).count("keys are what snapshot and log make of them") == 2
    with server.client() as client:
        for n in range(10):
            client.put(f"/last-{n}", content="v")
    epoch = server.status()["epoch"]
    server.stop()
    whole = succeed(server, "check", *maps)
    assert whole.count("keys are what snapshot and log make of them") == 2
    assert "nothing to repair" in succeed(server, "check", "--repair", *maps)

    damage(server, b"last-7")
    found = kvserver(server, "check", *maps)
    assert found.returncode == 1
    assert "log       WRONG: the log is damaged in segment 000000000000.log at byte " in found.stdout
    refuses_to_start(server)
    asked = kvserver(server, "check", "--repair", *maps)
    assert asked.returncode == 1
    assert "Of the changes " in asked.stdout
    assert "--yes is needed" in asked.stderr
    assert "done" in succeed(server, "check", "--repair", "--yes", *maps)
    succeed(server, "check", *maps)
    server.start()
    with server.client() as client:
        assert client.get("/keys/last-").json() == [f"last-{n}" for n in range(7)]
    assert server.status()["epoch"] != epoch
    assert "stop it first" in refused(server, "check", "--repair")


def damage(server: Server, text: bytes) -> None:
    """Change a byte of the log where `text` stands."""
    (path,) = [path for path in (server.data_dir / "log").glob("*.log") if text in path.read_bytes()]
    with path.open("r+b") as log:
        log.seek(path.read_bytes().index(text))
        log.write(b"X")


def refuses_to_start(server: Server) -> None:
    process = server.spawn()
    process.communicate(timeout=30)
    assert process.returncode == 1
    assert "the log is damaged in segment 000000000000.log" in server.log()
