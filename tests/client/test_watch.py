"""Python's watches and mirrors against the real server: stopped, stalled, killed, trimmed, restored, revoked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import shutil
import signal
import sqlite3
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kvserver.client.live
from kvserver.access.tokenedit import add_token, change_file, new_token, remove_token
from kvserver.client import (
    AsyncClient,
    CannotConnect,
    Client,
    Connected,
    Delete,
    Ended,
    Gap,
    NotAnswered,
    Put,
    Reset,
    Synced,
    Waiting,
)
from kvserver.client.errors import InvalidToken
from tests.client.killing import free_port, kill, parent_of, wait_until_whole
from tests.system.harness import Server, wait_for

SILENCE = 1.5


@pytest.fixture(scope="module")
def server(make_dir: Callable[[str], Path]) -> Iterator[Server]:
    """A server that comes back to the same port."""
    options = ("--shards", "2", "--workers", "2", "--sync", "os", "--port", str(free_port()))
    with Server(make_dir("data"), *options) as running:
        running.tracebacks_expected = True  # of workers whose shard was killed under them
        yield running


@pytest.fixture
def kv(server: Server) -> Iterator[Client]:
    """A client that notices silence soon."""
    with Client(server.url, silence=SILENCE) as client:
        yield client


@pytest.fixture
def below(request: pytest.FixtureRequest) -> str:
    """A prefix of the test's own."""
    return request.node.name + "/"


class States(list[Any]):
    """What `on_state` was told."""

    def __call__(self, state: Any) -> None:
        self.append(state)

    def kinds(self) -> list[type]:
        return [type(state) for state in self]

    def wait_for(self, kind: type) -> None:
        wait_for(lambda: kind in self.kinds(), kind.__name__)


def gateway_of(server: Server) -> int:
    pid: int = wait_until_whole(server)["gateways"][0]["pid"]
    return pid


def keys_of(watch: Any, count: int) -> list[str]:
    return [next(watch).key for _ in range(count)]


# Breaks


@pytest.mark.parametrize("victim", ["gateway", "worker", "shard", "master", "supervisor"])
def test_a_kill_loses_nothing(server: Server, kv: Client, below: str, victim: str) -> None:
    with kv.watch(below) as watch:
        kv.put(below + "before", "1")
        assert keys_of(watch, 1) == [below + "before"]
        kill(server, victim, random.Random(1))
        wait_until_whole(server)
        kv.put(below + "after", "2")
        assert keys_of(watch, 1) == [below + "after"]


def test_a_silent_gateway_is_given_up(server: Server, kv: Client, below: str) -> None:
    states, pid = States(), gateway_of(server)
    with kv.watch(below, on_state=states) as watch, kv.mirror(below) as mirror:
        mirror.wait_synced(20)
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.extend(keys_of(watch, 2)))
        os.kill(pid, signal.SIGSTOP)
        try:
            thread.start()
            kv.put(below + "a", "1")
            states.wait_for(Waiting)
            wait_for(lambda: mirror.state == "stale", "a stale mirror")
            assert len(mirror) == 0, "it can still be read"
        finally:
            os.kill(pid, signal.SIGCONT)
        written = kv.put(below + "b", "1")
        thread.join(60)
        assert found == [below + "a", below + "b"]
        mirror.wait_revision(written.revision, 30)
        mirror.wait_synced(30)
        assert sorted(mirror) == found
    assert isinstance(states[1], Waiting) and isinstance(states[1].error, NotAnswered)


@pytest.mark.parametrize("way", ["stop", "reload"])
def test_a_planned_end_is_told_and_nothing_is_missed(server: Server, kv: Client, below: str, way: str) -> None:
    states = States()
    with kv.watch(below, on_state=states) as watch:
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.extend(keys_of(watch, 1)))
        thread.start()
        if way == "stop":
            server.stop()
            server.start()
        else:
            os.kill(parent_of(gateway_of(server)), signal.SIGHUP)
        states.wait_for(Waiting)
        kv.put(below + "after", "1")
        thread.join(30)
        assert found == [below + "after"]
    assert way in str(states[1].error) and states[1].seconds >= 1.5


def test_a_server_that_is_not_there(below: str) -> None:
    with Client(f"http://127.0.0.1:{free_port()}", patience=0.3) as nowhere:
        with pytest.raises(CannotConnect):
            nowhere.watch(below).__enter__()
        with pytest.raises(CannotConnect), nowhere.mirror(below):
            pass
        states = States()
        with pytest.raises(CannotConnect):
            nowhere.watch(patience=0, on_state=states).__enter__()
        assert states == []
        with pytest.raises(TimeoutError):
            nowhere.wait(below, timeout=0.2)


def test_patience_of_a_running_watch(server: Server, kv: Client, below: str) -> None:
    with kv.watch(below, patience=0.2) as watch:
        for _ in range(2):  # and it can be asked again
            with pytest.raises(NotAnswered):
                next(watch)
        kv.put(below + "a", "1")
        assert keys_of(watch, 1) == [below + "a"]


def test_close_ends_a_watch_that_waits(kv: Client, below: str) -> None:
    watch = kv.watch(below).__enter__()
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(watch))
    thread.start()
    kv.put(below + "a", "1")
    wait_for(lambda: found, "the change")
    watch.close()
    thread.join(10)
    assert not thread.is_alive() and list(watch) == []


# What cannot be continued


def trim(server: Server, kv: Client) -> None:
    """Write until the log no longer reaches back to its beginning."""
    oldest = server.status()["oldest"]

    def is_trimmed() -> bool:
        kv.put("ballast", bytes(5_000_000))
        return server.status()["oldest"] > oldest + 5

    wait_for(is_trimmed, "a trimmed log", 60)


def test_a_trimmed_log_is_a_gap_and_then_a_snapshot(tmp_path: Path, below: str) -> None:
    options = ("--shards", "1", "--workers", "1", "--in-memory", "--wal-retention", "64MiB")
    with Server(tmp_path / "data", *options) as server, Client(server.url) as kv:
        kv.put(below + "kept", "1")
        kv.put(below + "gone", "1")
        with kv.mirror(below) as mirror:
            mirror.save(tmp_path / "copy")
        with kv.watch(below, snapshot=True) as watch:
            assert [next(watch) for _ in range(4)][-1] == Synced(watch.cursor or "")
            cursor = watch.cursor
        kv.delete(below + "gone")
        trim(server, kv)
        with pytest.raises(Gap) as raised, kv.watch(below, since=cursor) as watch:
            next(watch)
        assert raised.value.reason == "trimmed" and watch.cursor == cursor
        with kv.watch(below, since=raised.value.cursor) as watch:
            kv.put(below + "later", "1")
            assert keys_of(watch, 1) == [below + "later"]
        with kv.watch(below, since=cursor, on_gap="continue") as watch:
            assert next(watch) == Reset("trimmed", False)
            assert keys_of(watch, 1) == [below + "later"]
        with kv.watch(below, since=cursor, snapshot=True) as watch:
            changes = [next(watch) for _ in range(5)]
        assert changes[:2] == [Reset("trimmed", True), Reset("start", True)]
        assert [change.key for change in changes[2:4]] == [below + "kept", below + "later"]  # type: ignore[union-attr]
        changed: list[Any] = []
        with kv.mirror(below, load=tmp_path / "copy", on_change=lambda *change: changed.append(change)) as mirror:
            assert sorted(mirror) in ([below + "gone", below + "kept"], [below + "kept", below + "later"])
            mirror.wait_synced(30)
            assert sorted(mirror) == [below + "kept", below + "later"]
        assert [(key, old and old.text, new and new.text) for key, old, new in changed] == [
            (below + "gone", "1", None),
            (below + "later", None, "1"),
        ]


def test_a_data_directory_that_is_put_back(tmp_path: Path, below: str) -> None:
    """What was lost with it is not in the copy, and what replaced it is; the mirror is never empty in between."""
    server = Server(tmp_path / "data", "--shards", "2", "--workers", "1", "--port", str(free_port()))
    with server, Client(server.url) as kv, kv.watch(below) as watch:
        kv.put(below + "old", "1")
        kv.put(below + "same", "1")
        assert keys_of(watch, 2) == [below + "old", below + "same"]
        server.stop()
        older = shutil.copytree(server.data_dir, tmp_path / "older")
        server.start()
        with kv.mirror(below) as mirror:
            kv.delete(below + "old")
            lost = kv.put(below + "lost", "1")
            mirror.wait_revision(lost.revision, 20)
            assert [type(next(watch)) for _ in range(2)] == [Delete, Put]
            sizes: set[int] = set()
            stop = threading.Event()
            reader = threading.Thread(target=lambda: [sizes.add(len(mirror)) for _ in iter(stop.is_set, True)])
            reader.start()
            server.stop()
            shutil.rmtree(server.data_dir)
            shutil.copytree(older, server.data_dir)
            for directory in (server.map_dir, server.run_dir):
                for entry in directory.iterdir():
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            server.start()
            written = kv.put(below + "new", "1")
            mirror.wait_revision(written.revision, 40)
            stop.set()
            reader.join()
            assert sorted(mirror) == [below + "new", below + "old", below + "same"]
            assert sizes <= {2, 3}
        with pytest.raises(Gap) as raised:
            next(watch)
        assert raised.value.reason in ("bad_cursor", "epoch")


# Tokens


@pytest.fixture(scope="module")
def token_file(make_dir: Callable[[str], Path]) -> Path:
    """The file of tokens of `guarded`."""
    return make_dir("etc") / "tokens.toml"


def grant(file: Path, name: str) -> str:
    token = new_token()
    change_file(file, lambda text: add_token(text, str(file), name, token, [("", ["read", "write", "feed"])]))
    return token


@pytest.fixture(scope="module")
def guarded(make_dir: Callable[[str], Path], token_file: Path) -> Iterator[Server]:
    """A server with tokens."""
    grant(token_file, "first")
    with Server(make_dir("guarded"), "--in-memory", "--workers", "1", "--tokens", str(token_file)) as running:
        yield running


def wait_until_known(server: Server, token: str) -> None:
    def is_known() -> bool:
        with Client(server.url, token=token) as kv, contextlib.suppress(InvalidToken):
            kv.watch(snapshot=True).__enter__().close()
            kv.get("any")  # of the web worker, which reads the file by itself
            return True
        return False

    wait_for(is_known, "the new token")


def test_a_revoked_token_is_asked_for_again(guarded: Server, token_file: Path, below: str) -> None:
    tokens = [grant(token_file, "old")]
    wait_until_known(guarded, tokens[0])
    with Client(guarded.url, token=lambda: tokens[-1]) as kv, kv.watch(below) as watch, kv.mirror(below) as mirror:
        kv.put(below + "a", "1")
        assert keys_of(watch, 1) == [below + "a"]
        tokens.append(grant(token_file, "new"))
        wait_until_known(guarded, tokens[-1])
        change_file(token_file, lambda text: remove_token(text, str(token_file), "old"))
        with Client(guarded.url, token=tokens[-1]) as other:
            written = other.put(below + "b", "1")
        assert keys_of(watch, 1) == [below + "b"]
        mirror.wait_revision(written.revision, 20)


def test_a_revoked_token_that_is_not_replaced_ends_it(guarded: Server, token_file: Path, below: str) -> None:
    token = grant(token_file, "short")
    wait_until_known(guarded, token)
    states = States()
    with (
        Client(guarded.url, token=token) as kv,
        kv.watch(below) as watch,
        kv.mirror(below, on_state=states) as mirror,
    ):
        change_file(token_file, lambda text: remove_token(text, str(token_file), "short"))
        with pytest.raises(InvalidToken):
            next(watch)
        states.wait_for(Ended)
        assert mirror.state == "stale"
        with pytest.raises(InvalidToken):
            mirror[below]
        with pytest.raises(InvalidToken):
            mirror.wait_synced(1)


# What it is good for


def test_envelopes_and_a_database_make_exactly_once(server: Server, kv: Client, below: str, tmp_path: Path) -> None:
    """The cursor is kept in the transaction of the changes; the reader often crashes before it commits."""
    database = sqlite3.connect(tmp_path / "db")
    database.execute("CREATE TABLE seen (revision INTEGER PRIMARY KEY, key TEXT)")
    database.execute("CREATE TABLE place (cursor TEXT)")
    with kv.watch(below) as watch, database:
        database.execute("INSERT INTO place VALUES (?)", [watch.cursor])
    batches = [[f"{below}{{t}}{n}.{at}" for at in range(n + 1)] for n in range(6)]
    for n, keys in enumerate(batches):
        builder = kv.atomic()
        for key in keys:
            builder.put(key, "v")
        builder.commit()
        for crashes in (n % 2 == 0, False):
            (cursor,) = database.execute("SELECT cursor FROM place").fetchone()
            with kv.watch(below, since=cursor) as watch:
                envelope = next(iter(watch.envelopes()))
            with contextlib.suppress(ZeroDivisionError), database:
                puts = [(change.revision, change.key) for change in envelope.changes if isinstance(change, Put)]
                database.executemany("INSERT INTO seen VALUES (?, ?)", puts)
                database.execute("UPDATE place SET cursor = ?", [envelope.cursor])
                if crashes:
                    raise ZeroDivisionError
            if not crashes:
                break
    found = [key for (key,) in database.execute("SELECT key FROM seen ORDER BY revision")]
    database.close()
    assert found == [key for keys in batches for key in keys]


def test_a_saved_cursor_is_at_least_once(kv: Client, below: str) -> None:
    with kv.watch(below) as watch:
        kv.put(below + "a", "1")
        next(watch)
        saved = watch.cursor
    kv.put(below + "b", "1")
    with kv.watch(below, since=saved) as watch:
        assert keys_of(watch, 1) == [below + "b"]


def test_within_a_prefix_keys_are_relative(kv: Client, below: str) -> None:
    inner = kv.within(below)
    with inner.watch("a/", keys=["x"], snapshot=True) as watch, inner.mirror() as mirror:
        kv.put(below + "a/1", "1")
        kv.put(below + "x", "1")
        written = inner.put("y", "1")
        assert [next(watch) for _ in range(2)] == [Reset("start", True), Synced(watch.cursor or "")]
        assert keys_of(watch, 2) == ["a/1", "x"]
        mirror.wait_revision(written.revision, 20)
        assert sorted(mirror) == ["a/1", "x", "y"]
    assert inner.wait("y") == inner.get("y") or inner.wait("y").value == b"1"  # type: ignore[union-attr]


def test_wait(kv: Client, below: str) -> None:
    timer = threading.Timer(0.2, lambda: kv.put(below + "a", "1"))
    timer.start()
    entry = kv.wait(below + "a", timeout=20)
    timer.join()
    assert entry is not None and entry.text == "1"
    asked: list[Any] = []

    def is_three(entry: Any) -> bool:
        asked.append(entry and entry.text)
        return entry is not None and entry.text == "3"

    def count() -> None:
        for text in "2345":
            kv.put(below + "a", text)
        kv.delete(below + "a")

    thread = threading.Timer(0.2, count)
    thread.start()
    assert kv.wait(below + "a", is_three, 20).text == "3"  # type: ignore[union-attr]
    thread.join()
    assert asked == ["1", "2", "3"]
    assert kv.wait(below + "a", lambda entry: entry is None, 20) is None
    with pytest.raises(TimeoutError, match=r"0\.1 s"):
        kv.wait(below + "a", timeout=0.1)


def test_mirror_is_a_mapping(kv: Client, below: str, tmp_path: Path) -> None:
    mirror = kv.mirror(below, decode=lambda entry: entry.text)
    assert mirror.state == "starting"
    for access in (
        lambda: mirror[below],
        lambda: len(mirror),
        lambda: list(mirror),
        lambda: mirror.save(tmp_path / "x"),
    ):
        with pytest.raises(RuntimeError, match="no state yet"):
            access()
    with pytest.raises(TimeoutError):
        mirror.wait_synced(0.01)
    kv.put(below + "a", "1")
    with mirror:
        assert mirror[below + "a"] == "1" and mirror[below + "a"] is mirror[below + "a"]
        assert (len(mirror), list(mirror), below + "a" in mirror, below + "b" in mirror) == (
            1,
            [below + "a"],
            True,
            False,
        )
        assert mirror.get(below + "b") is None and dict(mirror.items()) == mirror.copy() == {below + "a": "1"}
        written = kv.put(below + "a", "2")
        mirror.wait_revision(written.revision, 20)
        assert mirror[below + "a"] == "2" and mirror.entries()[below + "a"].revision == written.revision
        mirror.save(tmp_path / "copy")
    assert mirror.state == "stale" and mirror[below + "a"] == "2", "closed, it can be read"
    with pytest.raises(RuntimeError, match="closed"):
        mirror.wait_revision(written.revision + 1000)
    assert (tmp_path / "copy").stat().st_mode & 0o77 == 0
    with kv.mirror(below, load=tmp_path / "copy") as warm:
        assert warm[below + "a"].text == "2"
        written = kv.put(below + "a", "3")
        warm.wait_revision(written.revision, 20)
        assert warm[below + "a"].text == "3"
    with pytest.raises(ValueError, match="not the file of this mirror"):
        kv.mirror(below + "other", load=tmp_path / "copy")
    (tmp_path / "copy").write_text("{")
    with pytest.raises(ValueError, match="delete it"):
        kv.mirror(below, load=tmp_path / "copy")


def test_a_callback_that_fails_ends_the_mirror(kv: Client, below: str) -> None:
    states = States()

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with kv.mirror(below, on_change=fail, on_state=states) as mirror:
        kv.put(below + "a", "1")
        states.wait_for(Ended)
        with pytest.raises(ZeroDivisionError):
            len(mirror)


def test_no_reader_of_a_mirror_sees_half_a_batch(server: Server, kv: Client, below: str) -> None:
    """While gateways are killed, too."""
    names = [f"{below}{{t}}{at}" for at in range(8)]
    stop = threading.Event()

    def write() -> None:
        at = 0
        while not stop.is_set():
            at += 1
            builder = kv.atomic()
            for name in names:
                builder.put(name, str(at))
            with contextlib.suppress(Exception):
                builder.commit()

    with kv.mirror(below, decode=lambda entry: entry.text) as mirror:
        writer = threading.Thread(target=write)
        writer.start()
        try:
            wait_for(lambda: len(mirror) == len(names), "the first batch")
            seen: set[str] = set()
            for _ in range(2):
                kill(server, "gateway", random.Random(1))
                before = len(seen)

                def has_moved(before: int = before) -> bool:
                    copy = mirror.copy()
                    assert len(copy) == len(names) and len(set(copy.values())) == 1
                    seen.update(copy.values())
                    return len(seen) > before + 20

                wait_for(has_moved, "more batches", 40)
        finally:
            stop.set()
            writer.join()


def test_the_examples_of_the_package_run(kv: Client, capsys: pytest.CaptureFixture[str]) -> None:
    kv.put("flags/dark", "on")
    example = re.search(r"\n((?:    .*\n|\n)+)", kvserver.client.live.__doc__ or "")
    assert example is not None
    found: dict[str, Any] = {"kv": kv, "Put": Put, "Synced": Synced}
    exec(textwrap.dedent(example[1]), found)
    assert capsys.readouterr().out == "flags/dark on\n"
    assert found["dark"] == "on" and found["leader"].text == "host-1"
    assert kv["presence/host-1"] == b"here"


# asyncio


def test_async_watch_and_mirror(server: Server, below: str) -> None:
    async def run() -> None:
        states, pid = States(), gateway_of(server)
        async with (
            AsyncClient(server.url, silence=SILENCE) as kv,
            kv.watch(below, on_state=states) as watch,
            kv.mirror(below) as mirror,
        ):
            await kv.put(below + "a", "1")
            assert (await watch.__anext__()).key == below + "a"  # type: ignore[union-attr]
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(watch.__anext__(), 0.1)
            os.kill(pid, signal.SIGSTOP)
            try:
                await kv.put(below + "b", "1")
                taking = asyncio.create_task(watch.__anext__())
                while Waiting not in states.kinds():
                    await asyncio.sleep(0.05)
                while mirror.state != "stale":
                    await asyncio.sleep(0.05)
            finally:
                os.kill(pid, signal.SIGCONT)
            assert (await asyncio.wait_for(taking, 60)).key == below + "b"  # type: ignore[union-attr]
            await mirror.wait_synced(60)
            kill(server, "gateway", random.Random(1))
            written = await kv.put(below + "c", "1")
            assert (await asyncio.wait_for(watch.__anext__(), 60)).key == below + "c"  # type: ignore[union-attr]
            await mirror.wait_revision(written.revision, 60)
            assert sorted(mirror) == [below + name for name in "abc"]
            assert states.kinds().count(Connected) >= 2
            taking = asyncio.create_task(watch.__anext__())
            await asyncio.sleep(0.05)
            await watch.close()
            with pytest.raises(StopAsyncIteration):
                await asyncio.wait_for(taking, 10)
            assert await kv.wait(below + "c", timeout=10) is not None
            with pytest.raises(TimeoutError):
                await kv.wait(below + "none", timeout=0.1)
            with pytest.raises(TimeoutError):
                await mirror.wait_revision(written.revision + 1000, 0.1)

    asyncio.run(run())
