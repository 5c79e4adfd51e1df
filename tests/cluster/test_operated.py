"""A cluster in the hands of its operator, who follows the manual: an order is lost, a machine is replaced."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvserver.client import Client, Put, Reset
from kvserver.serve.cluster.addresses import Machine
from tests.cluster.histories import assert_equal, items, put, until_ready
from tests.cluster.own_engines import NODES, OwnEngines, on_addresses, own_engines
from tests.system import feeds
from tests.system.harness import Server, wait_for
from tests.system.kvserver.commands.programs import PROGRAM, environ, program

STOPPED = "this machine has stopped: the engine has no stream KV; run `kvserver cluster reset --from-this-machine`"
ADDRESSES = on_addresses(4)


@pytest.fixture(scope="module")
def servers() -> Iterator[OwnEngines]:
    machines = [Machine(name, address) for name, address in zip(NODES, ADDRESSES, strict=False)]
    with own_engines(machines) as made:
        yield made


def status(servers: OwnEngines) -> subprocess.CompletedProcess[bytes]:
    """`kvserver cluster status`, by the variable that the manual names."""
    return program(None, "cluster", "status", KVSERVER_URL=",".join(servers.urls))


def states(servers: OwnEngines) -> list[str]:
    """The column `state` of that."""
    return [line.split()[2] for line in status(servers).stdout.decode().splitlines()[1:]]


def until_current(servers: OwnEngines) -> None:
    wait_for(lambda: status(servers).returncode == 0, "all machines are current", 90)
    assert states(servers) == ["current"] * 3


def remove_all_but_engine(server: Server) -> None:
    """What the manual says of a machine's data."""
    for path in server.data_dir.iterdir():
        if path.name != "engine":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def watching(servers: OwnEngines) -> Iterator[list[object]]:
    """What a watch of all keys sees, for as long as the context lasts."""
    seen: list[object] = []
    with Client(servers.urls, patience=300) as kv, kv.watch("", snapshot=True) as watch:
        follower = threading.Thread(target=lambda: seen.extend(watch))
        follower.start()
        yield seen
        watch.close()
        follower.join(30)


@pytest.mark.timeout(500)
def test_an_order_that_is_lost_begins_anew_with_what_one_machine_has(servers: OwnEngines) -> None:
    a, b, c = servers.all
    with Client(servers.urls, patience=30) as kv:
        kv.put_many((f"kept/{number}", str(number)) for number in range(100))
    before, cursor, epoch = items(a), feeds.now(c), a.status()["epoch"]
    with watching(servers) as seen:
        for server in servers.all:
            server.kill()
        for server in servers.all:
            shutil.rmtree(server.data_dir / "engine" / "jetstream")
            server.log_path.write_text("")
            server.spawn()
        for server in servers.all:
            wait_for(lambda server=server: STOPPED in server.log(), "it stops", 90)
        # Which one has come furthest is to be seen, and why they have stopped.
        wait_for(lambda: states(servers) == ["stopped"] * 3, "all say so", 60)
        said = status(servers)
        assert said.returncode == 1 and said.stderr.count(STOPPED.encode()) == 3
        assert {int(line.split()[-1]) for line in said.stdout.decode().splitlines()[1:]} == {a.status()["revision"]}
        # Stop its server and no other.
        a.stop()
        options = [*servers.options("a"), "--data-dir", str(a.data_dir), "--max-bytes", "256MiB"]
        begun = subprocess.run(
            [PROGRAM, "cluster", "reset", "--from-this-machine", *options],
            capture_output=True,
            text=True,
            timeout=200,
            env=environ(),
        )
        assert begun.returncode == 0, begun.stderr
        assert "On b, c remove everything in the data directory but `engine`, and start them" in begun.stderr
        a.spawn()
        for server in (b, c):
            server.stop()
            remove_all_but_engine(server)
            server.spawn()
        until_ready(*servers.all)
        until_current(servers)
        assert items(b) == before and items(c) == before
        revision = put(c, "after", "v")
        assert revision > max(found[1] for found in before)
        wait_for(lambda: any(isinstance(change, Put) and change.key == "after" for change in list(seen)), "the watch")
    reasons = [change.reason for change in seen if isinstance(change, Reset)]
    assert reasons[0] == "start" and reasons.count("epoch") == 1
    assert a.status()["epoch"] != epoch
    assert_equal(servers.all, since=feeds.now(b))
    for server in servers.all:
        (first, *_), _ = feeds.polled(server, cursor)
        assert (first["type"], first["reason"]) == ("gap", "epoch")


@pytest.mark.timeout(500)
def test_a_machine_that_is_replaced_takes_the_name_of_the_old_one(servers: OwnEngines) -> None:
    """At another address, with an empty directory; the others go on, and learn of it when they are started next."""
    a, b, c = servers.all
    put(a, "before", "v")
    c.kill()
    dead = c.data_dir.rename(c.data_dir.with_name("dead"))
    wait_for(lambda: put(a, "without", "c"), "the others go on", 30)
    servers.name_machines([*servers.machines[:2], Machine("c", ADDRESSES[3])])
    c.log_path.write_text("")
    c.start()
    until_current(servers)
    for server in (a, b):
        server.stop()
        put(c, "while", "one is stopped")
        server.start()
        until_current(servers)
        assert ADDRESSES[3] in (server.data_dir / "engine" / "engine.conf").read_text()
    c.stop()  # after it the others lead, and reach it at its new address alone
    put(a, "again", "without c")
    c.start()
    until_current(servers)
    assert_equal(servers.all)
    shutil.rmtree(dead)


@pytest.mark.parametrize(
    ("name", "others", "told"),
    [
        ("d", "a={0},b={1},d={3}", "--node is d, but the machines of this cluster are a, b, c"),
        ("c", "a={0},b={1},c={3},d=127.0.0.1,e=127.0.0.2", "--cluster names a, b, c, d, e, but the machines"),
    ],
)
def test_other_machines_are_refused_with_what_to_do(
    servers: OwnEngines, tmp_path: Path, name: str, others: str, told: str
) -> None:
    """Whether they come with data or without."""
    c = servers["c"]
    c.stop()
    cluster = others.format(*ADDRESSES)
    options = ["--node", name, "--cluster", cluster, "--cluster-secret", str(servers.secret), "--port", "0"]
    for data_dir in (tmp_path / "new", c.data_dir):
        said = fail_to_serve(*options, "--metrics-port", "0", "--data-dir", str(data_dir))
        assert told in said and "one that replaces another takes its name" in said
    c.start()
    until_current(servers)


def fail_to_serve(*options: str) -> str:
    """What a server says that must not start."""
    done = program(None, "serve", *options)
    assert done.returncode == 1
    return done.stderr.decode().splitlines()[-1]


@pytest.mark.timeout(200)
def test_an_order_is_begun_once(servers: OwnEngines) -> None:
    until_current(servers)
    done = program(None, "cluster", "init", *servers.options("b"))
    assert done.returncode == 1
    assert b"the order has begun, and machines that wait for it go on by themselves" in done.stderr


def test_a_machine_that_was_not_asked_is_named(servers: OwnEngines) -> None:
    until_current(servers)
    first, second, _ = servers.urls
    both = program(None, "cluster", "status", "--url", first, "--url", second)
    assert both.returncode == 0 and b"not asked: c; name the URLs of all machines" in both.stderr
    twice = program(None, "cluster", "status", "--url", first, "--url", first.replace("127.0.0.1", "localhost"))
    assert twice.returncode == 1 and b"are both a: name each machine once" in twice.stderr
