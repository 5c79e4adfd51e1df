"""What survives: restarts, kills of each kind of process under load, other numbers of shards, lost maps."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from shards.log.files import SEGMENT
from shards.log.manifest import Manifest
from shards.log.records import DATA, walk
from shards.wire.protocol import PutEvent, changes, decode_events
from tests import effort
from tests.system.harness import Server, key_path, wait_for
from tests.system.load import Load

NewServer = Callable[..., Server]


def logged_puts(data_dir: Path) -> list[tuple[str, str]]:
    """Key and value of every put in the log of a stopped store, in order."""
    manifest = Manifest.load(data_dir)
    puts = []
    for path in sorted((data_dir / "log").glob("*.log")):
        for record in walk(path.read_bytes(), int(path.stem) * SEGMENT, manifest.secret):
            if record.kind == DATA:
                for _, change in changes(decode_events(record.payload), record.revision):
                    if isinstance(change, PutEvent):
                        puts.append((change.key.decode(), change.value.decode()))
    return puts


def values(server: Server, keys: set[str]) -> dict[str, str | None]:
    """What the server holds for `keys`; None where a listing says that there is none."""
    with server.client() as client:
        present = set(client.get("/keys").json())
        return {key: client.get(key_path(key)).text if key in present else None for key in keys}


def attempted(load: Load) -> set[str]:
    return {attempt.key for writer in load.writers for attempt in writer.attempts}


def put_all(server: Server, items: dict[str, str]) -> None:
    with server.client() as client:
        for key, value in items.items():
            assert client.put(key_path(key), content=value).status_code == 200


def everything(server: Server) -> dict[str, str]:
    with server.client() as client:
        return {key: client.get(key_path(key)).text for key in client.get("/keys").json()}


ITEMS = {f"item/{n}": f"value {n}" for n in range(50)} | {"": "", "{a}x": "", "ü/%?#+ ": "x"}
del ITEMS[""]


def test_a_restart_keeps_everything(new_server: NewServer) -> None:
    server = new_server("--shards", "2").start()
    put_all(server, ITEMS)
    revision = server.status()["revision"]
    server.stop()
    server.start()
    assert everything(server) == ITEMS
    assert server.status()["revision"] >= revision


def test_other_numbers_of_shards_hold_the_same(new_server: NewServer) -> None:
    expected = dict(ITEMS)
    for shards in ("2", "5", "3"):
        server = new_server("--shards", shards).start()
        if shards != "2":
            assert everything(server) == expected
        more = {f"from {shards}": shards}
        put_all(server, ITEMS | more)
        expected |= more
        assert len(server.status()["shards"]) == int(shards)
        server.stop()


def test_lost_maps_are_built_again_from_the_log(new_server: NewServer) -> None:
    server = new_server("--shards", "2").start()
    put_all(server, ITEMS)
    server.stop()
    shutil.rmtree(server.map_dir)
    server.start()
    assert everything(server) == ITEMS


def test_a_killed_server_has_lost_nothing(new_server: NewServer) -> None:
    server = new_server("--shards", "2").start()
    with Load((server.host, server.port)) as load:
        wait_for(lambda: load.acked() > 300, "300 acknowledged writes")
        server.kill()
    server.start()
    load.check_values(values(server, attempted(load)))
    server.stop()
    load.check_log(logged_puts(server.data_dir))


def victim(server: Server, kind: str) -> int | None:
    """The pid of one process of this kind; None while none is known."""
    try:
        status = server.status()
    except httpx.HTTPError:
        return None
    rows = status[{"shard": "shards", "worker": "workers", "web master": "workers"}.get(kind, "gateways")]
    pids = [row["pid"] for row in rows if row.get("state", "up") == "up"]
    if pids and kind.endswith("master"):
        with contextlib.suppress(OSError):
            return int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1])
        return None
    return pids[0] if pids else None


@pytest.mark.parametrize("kind", ["shard", "worker", "web master", "gateway", "gateway master"])
def test_killing_any_process_under_load_loses_nothing(new_server: NewServer, kind: str) -> None:
    server = new_server("--shards", "2", "--workers", "2").start()
    with Load((server.host, server.port)) as load:
        for _ in range(effort.times(2)):
            before = load.acked()
            wait_for(lambda before=before: load.acked() > before + 100, "100 more acknowledged writes")
            pid = wait_for(lambda: victim(server, kind), f"a {kind}")
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda pid=pid: victim(server, kind) not in (None, pid), f"another {kind}")
        before = load.acked()
        wait_for(lambda: load.acked() > before + 100, "acknowledged writes after the last kill")
    load.check_values(values(server, attempted(load)))
    server.stop()
    load.check_log(logged_puts(server.data_dir))


def test_a_second_server_on_the_same_data_is_refused(new_server: NewServer, tmp_path: Path) -> None:
    new_server("--shards", "1").start()
    second = new_server("--shards", "1")
    process = second.spawn()
    output, _ = process.communicate(timeout=30)
    assert process.returncode not in (0, None)
    assert "ready" not in output
    assert "is served by another process (pid " in second.log()


def test_a_stopped_shard_is_a_504_not_a_loss(new_server: NewServer) -> None:
    server = new_server("--shards", "1").start()
    (pid,) = server.shard_pids()
    put_all(server, {"k": "before"})
    os.kill(pid, signal.SIGSTOP)
    try:
        with server.client(30) as client:
            assert client.get("/k").text == "before", "reads go on"
            assert client.put("/k", content="meanwhile").status_code == 504
    finally:
        os.kill(pid, signal.SIGCONT)
    with server.client(30) as client:
        assert client.put("/k", content="after").status_code == 200
        assert client.get("/k").text == "after"


def test_the_command_line_of_curl_works(server: Server) -> None:
    """A client that is not ours, with keys that need care."""
    for key in ("a/b", "100%", "what?", "#tag", "a+b", "with space", "ünï", "\x01\x7f", "..", "."):
        url = f"{server.url}/{quote(key, safe='').replace('.', '%2E')}"
        curl = ["curl", "-s", "--noproxy", "*", "--path-as-is"]
        subprocess.run([*curl, "-X", "PUT", "--data-binary", f"value of {key!r}", url], check=True)
        read = subprocess.run([*curl, url], check=True, capture_output=True, text=True).stdout
        assert read == f"value of {key!r}"
    with server.client() as client:
        assert "a/b" in client.get("/keys").json()
