"""Files of one engine are wiped, cut short, or have a flipped bit: nothing that was answered is missing then, or a
machine stops and says so."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import nats
import pytest

from shards.order import stream
from tests import effort
from tests.cluster.engines import Engine
from tests.cluster.histories import assert_equal, cluster_of, get, put, wipe
from tests.cluster.servers import Servers
from tests.system.harness import Server, wait_for


def wipe_files(files: list[Path]) -> None:
    for path in files:
        path.unlink()


def flip_bits(files: list[Path]) -> None:
    """Flip one bit of each file of messages."""
    for path in files:
        data = bytearray(path.read_bytes())
        if data:
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
            path.write_bytes(data)


def cut_short(files: list[Path]) -> None:
    for path in files:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])


def messages_of(engine: Engine) -> list[Path]:
    """The files that hold the stream's messages."""
    found = [path for path in (engine.directory / "js").rglob("*.blk") if "streams" in path.parts]
    assert found
    return found


def make_leader(servers: Servers, engine: Engine) -> None:
    """Ask the stream's leader to leave that to `engine`, for a while; that may not be followed."""

    async def ask() -> None:
        client = await nats.connect(servers.engines.urls)
        subject = f"$JS.API.STREAM.LEADER.STEPDOWN.{stream.NAME}"
        wish: dict[str, Any] = {"placement": {"preferred": engine.name}}
        await client.publish(subject, json.dumps(wish).encode(), reply=client.new_inbox())
        await client.flush()
        await client.close()

    for _ in range(5):
        if servers.engines.leader() is engine:
            return
        asyncio.run(ask())
        time.sleep(1.0)


def try_put(server: Server, key: str, value: str) -> int | None:
    try:
        return put(server, key, value)
    except httpx.HTTPError:
        return None


def is_settled(server: Server) -> bool:
    """Whether a server is ready, or has stopped."""
    return get(server, "/health/ready").status_code == 200 or cluster_of(server)["stopped"] is not None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("damage", [wipe_files, flip_bits, cut_short, None])
def test_damage_to_one_engine(servers: Servers, damage: Any) -> None:
    """After a compaction, which is the harder case; in the long form before one, too."""
    for compacted in (False, True)[-min(2, effort.times(1)) :]:
        damage_one_engine(servers, damage, compacted)


def damage_one_engine(servers: Servers, damage: Any, compacted: bool) -> None:
    a, _, c = servers.all
    victim = servers.engines.servers[2]
    answered = {}
    for number in range(60):
        key, value = f"k-{number}", f"{damage and damage.__name__} {compacted} {number}"
        answered[key] = (wait_for(lambda key=key, value=value: try_put(a, key, value), "a writes", 60), value)
    c.stop()
    if compacted:  # an engine that ends in order keeps the state of its messages instead of how they came
        for engine in servers.engines.servers:
            engine.kill(signal.SIGTERM)
            engine.start()
            servers.engines.wait_until_ready()
    victim.kill()
    if damage is None:
        shutil.rmtree(victim.directory / "js")
    else:
        damage(messages_of(victim))
    victim.start()
    servers.engines.wait_until_ready()
    make_leader(servers, victim)
    wait_for(lambda: try_put(a, "after", "v"), "a writes again", 60)
    wipe(c)  # so that it reads everything again, from its own engine first: the damaged one
    c.start()
    wait_for(lambda: all(is_settled(server) for server in servers.all), "all serve, or say why not", 60)
    going_on = [server for server in servers.all if cluster_of(server)["stopped"] is None]
    assert a in going_on, cluster_of(a)["stopped"]
    for server in going_on:
        for key, (revision, value) in answered.items():
            read = get(server, f"/v1/kv/{key}")
            assert (read.headers["KV-Revision"], read.text) == (str(revision), value)
    assert_equal(going_on)
    assert len(going_on) == 3, [cluster_of(server)["stopped"] for server in servers.all]
