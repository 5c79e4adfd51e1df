"""What whole servers of a cluster have made of its order, compared while they run."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import httpx

from shards.host.board import Board
from shards.log.reader import LogReader
from shards.wire.protocol import changes, decode_events
from tests.system import feeds
from tests.system.harness import Server, wait_for

PATIENCE_S = 60.0


def put(server: Server, key: str, value: str) -> int:
    """Write a key; return its revision."""
    with server.client() as client:
        return int(client.put(f"/v1/kv/{key}", content=value).raise_for_status().headers["KV-Revision"])


def get(server: Server, path: str) -> httpx.Response:
    with server.client() as client:
        return client.get(path, headers={"Accept": "application/json"})


def is_ready(server: Server) -> bool:
    """Whether it serves, and has caught up. One that waits for its cluster does not listen yet."""
    try:
        return get(server, "/health/ready").status_code == 200
    except httpx.ConnectError:
        return False


def until_ready(*servers: Server) -> None:
    for server in servers:
        wait_for(lambda server=server: is_ready(server), "it is ready", PATIENCE_S)


def cluster_of(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.status()["cluster"]
    return found


def logged(server: Server) -> dict[int, Any]:
    """What the log of a running server holds: by revision, time and change."""
    found: dict[int, Any] = {}
    with contextlib.closing(Board.open(server.run_dir / "board")) as board:
        lsn, (tail, _) = board.log.oldest, board.history()
        with contextlib.closing(LogReader(Path(board.facts.log_dir), board.facts.secret)) as reader:
            while lsn < tail:
                records, lsn = reader.read(lsn, tail)
                for record in records:
                    if record.events:
                        for revision, change in changes(decode_events(record.payload), record.revision):
                            found[revision] = (record.time_ms, change)
    return found


def items(server: Server) -> list[tuple[Any, ...]]:
    """All keys with their revisions and values."""
    found, after = [], ""
    with server.client() as client:
        while True:
            page = client.get(f"/v1/kv?limit=500&values=true{after}").raise_for_status().json()
            found += [(item["key"], item["revision"], item.get("value")) for item in page["items"]]
            if not page.get("next"):
                return found
            after = f"&after={page['next']}"


def assert_equal(servers: list[Server], *, since: str | None = None) -> None:
    """Check that logs, as far as all have them, maps, and feeds from `since` on, are the same everywhere."""
    until_ready(*servers)
    last = max(server.status()["revision"] for server in servers)
    wait_for(lambda: all(server.status()["revision"] >= last for server in servers), "all have everything", PATIENCE_S)
    logs = [logged(server) for server in servers]
    common = set.intersection(*(set(log) for log in logs))
    assert last in common
    assert all(log[revision] == logs[0][revision] for log in logs for revision in common)
    maps = [items(server) for server in servers]
    assert all(found == maps[0] for found in maps)
    assert len({server.status()["epoch"] for server in servers}) == 1
    if since is not None:
        seen = [events_since(server, since) for server in servers]
        assert all(events == seen[0] for events in seen)


def events_since(server: Server, cursor: str) -> list[tuple[int, str]]:
    """What a feed gives after `cursor`; it must not have a gap."""
    messages, _ = feeds.polled(server, cursor)
    assert [message for message in messages if message["type"] in ("gap", "reset")] == []
    return [(event["revision"], event["key"]) for message in messages for event in message.get("events", ())]


def wipe(server: Server, *, maps: bool = True) -> None:
    """Remove the data directory of a server that does not run, and by default its maps and run directory too."""
    shutil.rmtree(server.data_dir)
    for directory in (server.map_dir, server.run_dir) if maps else ():
        shutil.rmtree(directory)
        directory.mkdir(mode=0o700)
