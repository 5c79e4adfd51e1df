"""`kvserver backup`, `restore` and `stop` as an operator uses them: beside writers, killed, on the wrong directory."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec

from shards.backup.archive import UNFINISHED, Archive
from shards.log.manifest import SNAPSHOTS, Manifest, SnapshotFile
from shards.log.pins import pinned_lsns
from tests.system.commands import command, kvserver, refused, succeed
from tests.system.harness import Server, wait_for
from tests.system.load import Load

NewServer = Callable[..., Server]


class Recorder:
    """A client that changes keys of its own in every way there is, and notes the store's state after each answer."""

    def __init__(self, client: httpx.Client, seed: int) -> None:
        self.client, self.chance = client, random.Random(seed)
        self.state: dict[str, str] = {}
        self.states: list[tuple[int, dict[str, str]]] = []

    def run(self, rounds: int) -> None:
        for number in range(rounds):
            change = self.chance.choice([self.put, self.put, self.touch, self.delete, self.batch, self.prefix])
            revision = change(f"{self.chance.choice('ab')}{self.chance.randrange(6)}", f"value {number}")
            if revision:
                self.states.append((revision, dict(self.state)))

    def put(self, key: str, value: str) -> int:
        ttl = self.chance.choice([{}, {"ttl": "100000"}])
        answer = self.client.put(f"/v1/kv/rec/{key}", content=value, params=ttl)
        self.state[f"rec/{key}"] = value
        return self.revision(answer)

    def touch(self, key: str, value: str) -> int:
        return self.revision(self.client.post(f"/v1/kv/rec/{key}", params={"ttl": "100000"}))

    def delete(self, key: str, value: str) -> int:
        answer = self.client.delete(f"/v1/kv/rec/{key}")
        self.state.pop(f"rec/{key}", None)
        return self.revision(answer)

    def batch(self, key: str, value: str) -> int:
        puts = [{"op": "put", "key": f"rec/{{t}}{n}", "value": value} for n in range(3)]
        answer = self.client.post("/v1/batch", json={"atomic": True, "ops": puts}).json()
        self.state |= {each["key"]: value for each in puts}
        return int(answer["results"][-1]["revision"])

    def prefix(self, key: str, value: str) -> int:
        answer = self.client.delete("/v1/kv", params={"prefix": f"rec/{key[0]}"}).json()
        assert answer["complete"]
        self.state = {name: text for name, text in self.state.items() if not name.startswith(f"rec/{key[0]}")}
        return 0  # the answer does not say the last delete's revision

    def revision(self, answer: httpx.Response) -> int:
        return int(answer.headers["KV-Revision"]) if answer.is_success else 0


def recorded(server: Server) -> dict[str, str]:
    """What the server holds of a recorder's keys."""
    with server.client() as client:
        listed = client.get("/v1/kv", params={"prefix": "rec/", "limit": "1000", "values": "true"}).json()
        return {item["key"]: item["value"] for item in listed["items"]}


def test_backups_beside_writers_are_restored_to_any_state(new_server: NewServer, tmp_path: Path) -> None:
    server = new_server("--shards", "2", "--workers", "1").start()
    with server.client() as client, Load((server.host, server.port), writers=4) as load:
        recorder = Recorder(client, 1)
        recorder.run(60)
        first = kvserver(server, "backup", tmp_path / "first")
        acked = load.acked()
        recorder.run(60)
        snapshot = subprocess.run(
            [sys.executable, "-m", "shards.maps.snapshot"],
            timeout=60,
            env=os.environ | {"KVSERVER_RUN_DIR": str(server.run_dir), "KVSERVER_DATA_DIR": str(server.data_dir)},
        )
        recorder.run(60)
        second = kvserver(server, "backup", tmp_path / "second")
        wait_for(lambda: load.acked() > acked + 50, "writes that go on")
    assert (first.returncode, snapshot.returncode, second.returncode) == (0, 0, 0), (first, second)
    server.kill()  # its board and its maps stay, and know of a longer log than what is restored
    epoch = Archive.load(tmp_path / "second").manifest.epoch

    chance = random.Random(2)
    for name, shards in (("first", "3"), ("second", "1")):
        taken = Archive.load(tmp_path / name)
        reached = [each for each in recorder.states if taken.first_revision <= each[0] <= taken.last_revision]
        assert len(reached) > 30
        revision, state = chance.choice(reached)
        for path in server.data_dir.iterdir():  # the directory stays the same
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert f"is at revision {revision} of" in succeed(
            server, "restore", tmp_path / name, "--until", revision, run_dir=False
        )
        server.options = ("--shards", shards, "--workers", "1")
        server.start()
        assert recorded(server) == state
        status = server.status()
        assert status["epoch"] != epoch
        with server.client() as client:
            written = int(client.put("/v1/kv/rec/new", content="x").headers["KV-Revision"])
        assert written > taken.last_revision + (1 << 27), "a new history"
        server.stop()
        # What was restored is backed up like any other.
        succeed(server, "backup", tmp_path / f"{name}-again")
        assert Archive.load(tmp_path / f"{name}-again").last_revision == written


def test_a_backup_goes_to_a_stream_that_tar_unpacks(new_server: NewServer, tmp_path: Path) -> None:
    server = new_server("--shards", "2", "--workers", "1").start()
    with server.client() as client:
        client.put("/v1/kv/large", content=bytes(4_000_000)).raise_for_status()
        revision = int(client.put("/v1/kv/a", content="x").headers["KV-Revision"])
    take = shlex.join(command(server, "backup", "-"))
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir(mode=0o700)
    done = subprocess.run(
        f"{take} | gzip | gunzip | tar -x -C {unpacked}", shell=True, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stdout == "", done
    assert f"revision {revision} was written to standard output" in done.stderr
    assert Archive.load(unpacked).last_revision == revision
    full = subprocess.run(f"{take} > /dev/full", shell=True, capture_output=True, text=True, timeout=60)
    assert full.stderr == "kvserver: cannot write to standard output: No space left on device\n"
    closed = subprocess.run(f"{take} >&-", shell=True, capture_output=True, text=True, timeout=60)
    assert closed.stderr.startswith("kvserver: standard output is closed: redirect it")
    assert full.returncode == closed.returncode == 1
    cut = subprocess.run(f"{take} | head -c 100", shell=True, capture_output=True, timeout=60)
    assert (len(cut.stdout), cut.stderr) == (100, b"")
    assert pinned_lsns(server.data_dir / "locks") == ()
    server.stop()
    for path in server.data_dir.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    succeed(server, "restore", unpacked, run_dir=False)
    server.start()
    with server.client() as client:
        assert client.get("/v1/kv/a").text == "x"


def test_a_killed_backup_holds_nothing_and_is_no_backup(new_server: NewServer, tmp_path: Path) -> None:
    server = new_server("--shards", "1", "--workers", "1").start()
    target, locks = tmp_path / "backup", server.data_dir / "locks"
    slow_snapshot(server)
    taking = subprocess.Popen(command(server, "backup", target), stderr=subprocess.PIPE)
    try:
        wait_for(lambda: pinned_lsns(locks), "a hold on the log")
        wait_for(lambda: (target / UNFINISHED).exists(), "a directory that says it is not finished")
        taking.send_signal(signal.SIGSTOP)
        assert "is being taken or was not finished" in refused(server, "backup", target)
        assert kvserver(server, "stop").returncode == 0, "a server can end meanwhile"
    finally:
        taking.kill()
        taking.communicate()
    assert pinned_lsns(locks) == ()
    assert "was not finished" in refused(server, "restore", target, run_dir=False)
    taking = subprocess.Popen(command(server, "backup", tmp_path / "new" / "backup"), stderr=subprocess.PIPE)
    wait_for(lambda: (tmp_path / "new" / "backup" / UNFINISHED).exists(), "a backup that has begun")
    taking.send_signal(signal.SIGTERM)
    _, errors = taking.communicate(timeout=20)
    assert b"Traceback" not in errors
    assert taking.returncode == 128 + signal.SIGTERM
    assert not (tmp_path / "new").exists(), "it takes away what it has begun"


def slow_snapshot(server: Server) -> None:
    """Let the next backups take seconds: a gigabyte of the snapshot is to be copied first."""
    manifest = Manifest.load(server.data_dir)
    file = SnapshotFile(
        name="0123456789abcdef-01234567/shard-0.mdb",
        shard=0,
        shards=1,
        lsn=0,
        revision=0,
        size=1 << 30,
        checksum="0" * 32,
    )
    path = server.data_dir / SNAPSHOTS / file.name
    path.parent.mkdir(parents=True)
    path.touch()
    os.truncate(path, file.size)
    msgspec.structs.replace(manifest, files=(file,)).save(server.data_dir)


def test_two_at_once_a_stop_that_gives_memory_back_and_a_restore(new_server: NewServer, tmp_path: Path) -> None:
    server = new_server("--shards", "1", "--workers", "1").start()
    with server.client() as client:
        client.put("/k", content="v")
    outcomes: list[subprocess.CompletedProcess[str]] = []
    both = [
        threading.Thread(target=lambda n=n: outcomes.append(kvserver(server, "backup", tmp_path / f"b{n}")))
        for n in range(2)
    ]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert [each.returncode for each in outcomes] == [0, 0], outcomes
    succeed(server, "stop")
    server.stop()  # which has happened
    assert list(server.map_dir.glob("shard-*")), "the next start is instant"
    assert "of maps were freed" in succeed(server, "stop", "--release", "--map-dir", server.map_dir)
    assert not list(server.map_dir.glob("shard-*"))
    shutil.rmtree(server.data_dir)
    succeed(server, "restore", tmp_path / "b1", run_dir=False)
    server.start()
    with server.client() as client:
        assert client.get("/k").text == "v"
