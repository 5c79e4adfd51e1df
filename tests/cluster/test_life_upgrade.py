"""A rolling upgrade to a version whose rules differ: what is proposed goes by the rules that all members know."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest

from shards.order.messages import LEVEL
from tests.cluster.histories import assert_equal, cluster_of, get, put
from tests.cluster.servers import Servers
from tests.system.harness import Server, wait_for

NEWER = f"""
import msgspec
from shards.order import membership, messages
from shards.server import following
from shards.wire.protocol import Put

messages.LEVEL = membership.LEVEL = {LEVEL + 1}
membership.Membership.__init__.__defaults__ = ({LEVEL + 1},)
decide = following.Following._decide_operations


def decide_newly(self, effect, operations):
    if effect.level > {LEVEL}:
        puts = [operation for operation in operations if type(operation) is Put]
        operations = [msgspec.structs.replace(put, value=put.value + b" by new rules") for put in puts]
    return decide(self, effect, operations)


following.Following._decide_operations = decide_newly
"""
"""What the newer version does otherwise; each of its processes runs this first."""


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a server of the newer version."""
    place: Path = tmp_path_factory.mktemp("newer")
    (place / "sitecustomize.py").write_text(NEWER)
    return {"PYTHONPATH": str(place)}


def written(server: Server, key: str, everywhere: Servers) -> str:
    """Write a key, and return what all machines say that it holds."""
    put(server, key, "v")
    for each in everywhere.all:  # one that was just put out says so, and is back soon
        wait_for(lambda each=each: get(each, f"/v1/kv/{key}").status_code == 200, "it is current", 60)
    texts = {get(each, f"/v1/kv/{key}").text for each in everywhere.all}
    assert len(texts) == 1
    return texts.pop()


def put_out_for_a_moment(server: Server, everywhere: Servers) -> None:
    """Hold up a machine until the others, which are of a newer version, have put it out. They go by its rules."""
    index = everywhere.all.index(server)
    first, *others = [each for each in everywhere.all if each is not server]
    shard = server.status()["shards"][0]["pid"]
    os.kill(shard, signal.SIGSTOP)
    try:
        wait_for(lambda: not cluster_of(first)["nodes"][index]["member"], "it is out", 60)
        for each in (first, *others):
            wait_for(lambda each=each: try_put(each, "while-it-is-out"), "they go on", 60)
    finally:
        os.kill(shard, signal.SIGCONT)
    wait_for(lambda: cluster_of(first)["nodes"][index]["member"], "it is in again", 60)
    assert written(first, "while-it-is-out", everywhere) == "v"
    assert cluster_of(server)["stopped"] is None


def try_put(server: Server, key: str) -> bool:
    """Whether a write is done."""
    try:
        put(server, key, "v")
    except httpx.HTTPError:
        return False
    return True


def test_new_rules_hold_when_all_members_know_them(servers: Servers, newer: dict[str, str]) -> None:
    a, b, c = servers.all
    for index, server in enumerate((b, a, c)):
        for other in servers.all:
            assert written(other, f"before-{index}", servers) == "v"
        if index == 2:
            put_out_for_a_moment(server, servers)
        server.stop()
        server.environ = newer
        server.start()
    wait_for(lambda: written(a, "after", servers) == "v by new rules", "all know that all know", 30)
    for server in servers.all:
        assert written(server, "later", servers) == "v by new rules"
    assert_equal(servers.all)

    c.stop()
    c.environ = {}
    wait_for(lambda: put(b, "k", "without c"), "b writes", 30)
    c.log_path.write_text("")
    c.spawn()
    wait_for(lambda: "this machine has stopped" in c.log(), "the older version stops", 60)
    assert f"of level {LEVEL + 1}" in c.log() and "install the version of the other machines" in c.log()
    c.stop()
    c.environ = newer
    c.start()
    assert_equal(servers.all)
    assert cluster_of(c)["stopped"] is None
