"""A data directory that is put back, in place, to an older copy of itself: a machine rolled back, rsync, tar.

Nothing of the lost time is given out again, and whoever remembers something of it is told.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.system.harness import Server, wait_for


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Not started yet."""
    server = Server(tmp_path / "data", "--shards", "2", "--workers", "1")
    yield server
    server.close()


def copy(server: Server) -> Path:
    """A copy of the data directory of a server that is stopped."""
    target = server.data_dir.with_name("copy")
    shutil.copytree(server.data_dir, target)
    return target


def put_back(server: Server, source: Path) -> None:
    """Into the same directory, which keeps its inode."""
    for entry in server.data_dir.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    shutil.copytree(source, server.data_dir, dirs_exist_ok=True)


def lose_memory(server: Server) -> None:
    """As a reboot does."""
    for directory in (server.map_dir, server.run_dir):
        for entry in directory.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def put(client: httpx.Client, key: str, value: str) -> str:
    """Its ETag."""
    return client.put(f"/v1/kv/{key}", content=value).raise_for_status().headers["etag"]


def kinds(client: httpx.Client, cursor: str) -> list[str]:
    messages = client.get("/v1/feed", params={"since": cursor}).raise_for_status().json()["messages"]
    return [message["type"] + ":" + message.get("reason", "") for message in messages]


def test_what_was_lost_is_told(server: Server) -> None:
    server.start()
    with server.client() as client:
        put(client, "a", "old")
        kept_cursor = client.get("/v1/feed").json()["cursor"]
    server.stop()
    older = copy(server)

    server.start()
    with server.client() as client:
        assert kinds(client, kept_cursor) == [], "nothing has happened since"
        lost = [put(client, "a", f"new {n}") for n in range(4)]
        assert wait_for(lambda: client.get("/v1/feed").json()["cursor"].endswith(lost[-1].strip('"')), "the feed")
        cursors = [f"{server.status()['epoch']}.{etag.strip(chr(34))}" for etag in lost]
    server.stop()
    put_back(server, older)
    lose_memory(server)

    server.start()
    with server.client() as client:
        assert client.get("/v1/kv/a").content == b"old"
        for cursor in cursors:
            assert kinds(client, cursor)[0] == "gap:bad_cursor"
        given = [put(client, f"c{n}", "x") for n in range(8)]
        assert not {*given} & {*lost}
        for cursor in cursors:
            assert kinds(client, cursor)[0] == "gap:bad_cursor"
        for etag in lost:
            answer = client.put("/v1/kv/c3", content="overwritten", headers={"If-Match": etag})
            assert answer.status_code == 412
        messages = client.get("/v1/feed", params={"since": kept_cursor}).json()["messages"]
        seen = [event["key"] for message in messages for event in message.get("events", [])]
        assert [message["type"] for message in messages] == ["events"], "who was there before misses nothing"
        assert seen == [f"c{n}" for n in range(8)]
    server.stop()
    # Once more, so that the lost revisions lie between two runs that both have changes.
    server.start()
    with server.client() as client:
        put(client, "d", "x")
        assert kinds(client, cursors[0])[0] == "gap:bad_cursor"
        with client.stream(
            "GET",
            "/v1/feed",
            params={"snapshot": "true"},
            headers={"Accept": "text/event-stream", "Last-Event-ID": cursors[-1]},
        ) as stream:
            data = next(line for line in stream.iter_lines() if line.startswith("data:"))
        assert '"reason":"bad_cursor"' in data and '"snapshot":true' in data


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_if_memory_survived_it_is_said_what_it_is(server: Server, killed: bool) -> None:
    server.start()
    with server.client() as client:
        kept = put(client, "a", "old").strip('"')
    server.stop()
    older = copy(server)
    server.start()
    with server.client() as client:
        put(client, "a", "new")
    if killed:
        server.kill()
    else:
        server.stop()
    put_back(server, older)

    process = server.spawn()
    assert process.wait(30) != 0
    said = server.log().splitlines()[-1]
    assert "an older copy" in said and "damaged" not in said and "check --repair" in said
    assert process.stdout is not None
    process.stdout.close()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "kvserver",
            "check",
            "--repair",
            "--yes",
            "--data-dir",
            str(server.data_dir),
            "--run-dir",
            str(server.run_dir),
            "--map-dir",
            str(server.map_dir),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "an older copy" in done.stdout
    assert f"after revision {kept} are given up: this copy never held them" in done.stdout
    assert "No change is lost" not in done.stdout
    server.start()
    with server.client() as client:
        assert client.get("/v1/kv/a").content == b"old"
