"""Every client on a real cluster, whose machines are killed in turn: it loses no write and no change, doubles none."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests import effort
from tests.client.sdks import DRIVERS, Sdk
from tests.client.test_kills import Writer, check_watches, check_writes
from tests.client.test_several_servers import wait_for_progress
from tests.client.watching import Collector, Watching
from tests.cluster.own_engines import OwnEngines, own_engines
from tests.system.feeds import now, polled

TURNS = effort.times(1)


@pytest.fixture(scope="module")
def servers() -> Iterator[OwnEngines]:
    """Three machines, each of which comes back at its port."""
    with own_engines() as made:
        for server in made.all:
            server.options = (*server.options, "--port", str(server.port))
            server.tracebacks_expected = True  # of workers whose shard is killed under them
        yield made


@pytest.mark.timeout(240 + 120 * TURNS)
@pytest.mark.parametrize("sdk", DRIVERS.values(), ids=DRIVERS)
def test_the_history_is_witness(sdk: Sdk, servers: OwnEngines) -> None:
    urls = ",".join(server.url for server in servers.all)
    with servers.all[0].client(60) as client:
        client.delete("/v1/kv", params={"all": "true"}).raise_for_status()
    since, stop = now(servers.all[0]), threading.Event()
    options = {"patience": 60, "timeout": 15, "idempotency": True}
    writers = [Writer(sdk, urls, number, stop, options) for number in range(2)]
    with (
        Watching(sdk, urls, since=since) as follower,
        Watching(sdk, urls, prefixes=["k/", "last"], snapshot=True) as copier,
    ):
        collectors = [Collector(follower, "last"), Collector(copier, "last")]
        for thread in (*writers, *collectors):
            thread.start()
        wait_for_progress(writers, collectors)  # a watch is patient once it has heard something
        for turn in range(TURNS):
            servers.all[turn % 2].kill()
            wait_for_progress(writers, collectors)
            servers.all[turn % 2].start()
        stop.set()
        for writer in writers:
            writer.join(90)
            assert not writer.is_alive()
            if writer.failure is not None:
                raise writer.failure
            writer.driver.close()
        with servers.all[2].client(60) as client:
            last = int(client.put("/v1/kv/last", content=b"").raise_for_status().headers["kv-revision"])
        for collector in collectors:
            collector.join(90)
            assert collector.failure is None and not collector.is_alive(), collector.failure
    events = [event for message in polled(servers.all[2], since)[0] for event in message.get("events", ())]
    check_writes(writers, events)
    check_watches(collectors, events, last)
    for writer in writers:
        assert not writer.unknown and not writer.unknown_adds, "its Idempotency-Key lets it ask another"
