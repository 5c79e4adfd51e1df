"""Machines of a cluster that come back, or come back with nothing, while the order still has every message."""

from __future__ import annotations

from tests.cluster.histories import assert_equal, put, until_ready, wipe
from tests.cluster.servers import Servers
from tests.system import feeds
from tests.system.harness import wait_for


def test_a_machine_that_was_away_catches_up(servers: Servers) -> None:
    a, _, c = servers.all
    cursor = feeds.now(c)
    put(a, "before", "v")
    c.stop()
    for number in range(50):
        put(servers.all[number % 2], f"away-{number % 7}", str(number))
    c.start()
    put(c, "after", "v")
    assert_equal(servers.all, since=cursor)


def test_a_machine_whose_data_are_gone_makes_the_same_of_the_order(servers: Servers) -> None:
    a, b, _ = servers.all
    cursor = feeds.now(a)
    for ends, maps in ((b.stop, True), (b.kill, False)):
        put(b, "before", ends.__name__)
        ends()
        wipe(b, maps=maps)
        for number in range(30):
            wait_for(lambda number=number: put(a, f"gone-{number % 7}", str(number)), "a write", 30)
        b.start()
        put(b, "after", ends.__name__)
        until_ready(b)
        assert_equal(servers.all, since=cursor)
