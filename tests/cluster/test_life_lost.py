"""Servers whose order is lost: they stop with a sentence, and go on with a new order of what one of them has."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys

import nats
import pytest

from shards.order import stream
from shards.order.messages import LEVEL
from tests.cluster.histories import assert_equal, cluster_of, get, items, put
from tests.cluster.servers import Servers
from tests.system import feeds
from tests.system.harness import Server, wait_for

STOPPED = "this machine has stopped"


def tell_engine(servers: Servers, subject: str, payload: bytes = b"") -> None:
    """Send a request to the engines, and wait for the answer."""

    async def ask() -> None:
        client = await nats.connect(servers.engines.urls)
        await client.request(subject, payload, timeout=10)
        await client.close()

    asyncio.run(ask())


def reset(servers: Servers, node: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the command on a machine."""
    server = servers[node]
    given = [*server.options[: server.options.index("--workers")], "--data-dir", str(server.data_dir)]
    given += ["--run-dir", str(server.run_dir), "--max-bytes", "256MiB"]
    command = [sys.executable, "-m", "kvserver", "cluster", "reset", *given, *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def assert_stopped(server: Server, what: str) -> None:
    """Check that a server has stopped with a sentence, says so, and does not start its shard again."""
    wait_for(lambda: STOPPED in server.log(), f"{server.options[1]} stops", 60)
    assert server.process is not None and server.process.poll() is None
    said = cluster_of(server)["stopped"]
    assert (what in said and "`kvserver cluster reset" in said) or "install the version" in said
    ready, read = get(server, "/health/ready"), get(server, "/v1/kv/k")
    assert (ready.status_code, read.status_code, read.json()["code"]) == (503, 503, "not_current")
    assert what in read.text
    with server.client() as client:
        assert client.put("/v1/kv/k", content="v").status_code == 503
    assert server.log().count(STOPPED) == 1
    assert server.log().count("CRITICAL shard 0 ends") == 1


def remove_all_but_the_engine(server: Server) -> None:
    for path in server.data_dir.iterdir():
        if path.name != "engine":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("loss", ["deleted", "of another level"])
def test_what_one_machine_has_begins_a_new_order(servers: Servers, loss: str) -> None:
    a, b, c = servers.all
    put(b, "k", loss)
    before, cursor, epoch = items(a), feeds.now(a), a.status()["epoch"]
    for server in servers.all:
        server.log_path.write_text("")
    if loss == "deleted":
        tell_engine(servers, stream.DELETE)
    else:
        tell_engine(servers, f"{stream.LOG}.a", bytes([LEVEL + 1]))
    for server in servers.all:
        assert_stopped(server, "has no stream" if loss == "deleted" else f"level {LEVEL + 1}")
    assert "is served by another process" in reset(servers, "a", "--from-this-machine").stderr
    for server in servers.all:
        server.stop()
    assert "say --from-this-machine" in reset(servers, "a").stderr
    done = reset(servers, "a", "--from-this-machine")
    assert done.returncode == 0, done.stderr
    for server in (b, c):
        remove_all_but_the_engine(server)
    servers.start()
    revision = put(c, "after", "v")
    assert revision > max(found[1] for found in before)
    assert [found for found in items(b) if found[1] != revision] == [found for found in before if found[0] != "after"]
    assert a.status()["epoch"] != epoch
    assert_equal(servers.all, since=feeds.now(b))
    messages, _ = feeds.polled(c, cursor)
    assert messages[0]["type"] in ("gap", "reset")


def test_an_order_that_others_follow_is_not_reset(servers: Servers) -> None:
    a, b, _ = servers.all
    a.stop()
    wait_for(lambda: put(b, "k", "without a"), "b writes", 30)
    refused = reset(servers, "a", "--from-this-machine")
    assert refused.returncode == 1 and "follows the order, which is not lost" in refused.stderr
    a.start()
    assert_equal(servers.all)


def test_a_machine_that_missed_a_reset_stops(servers: Servers) -> None:
    a, _, c = servers.all
    for server in servers.all:
        server.stop()
    assert reset(servers, "b", "--from-this-machine").returncode == 0
    remove_all_but_the_engine(a)
    c.log_path.write_text("")
    c.spawn()
    servers.start("ab")
    wait_for(lambda: STOPPED in c.log(), "c stops", 60)
    assert "was made anew" in c.log()
    c.stop()
    remove_all_but_the_engine(c)
    c.start()
    put(c, "after", "v")
    assert_equal(servers.all)
