"""Machines that need messages which the order no longer has: they begin with the store of another one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.histories import assert_equal, cluster_of, put, until_ready, wipe
from tests.cluster.servers import Servers, cluster
from tests.system import feeds
from tests.system.harness import wait_for

KEPT = 2 << 20
"""Bytes of messages that the order keeps."""


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with cluster(max_bytes=KEPT) as made:
        yield made


def write_more_than_is_kept(servers: Servers, nodes: str, mark: str) -> None:
    """Write so much that the order drops what was there before."""
    value = mark * (48 << 10)
    for number in range(2 * KEPT // len(value)):
        wait_for(lambda number=number: put(servers[nodes[number % len(nodes)]], f"{mark}-{number % 30}", value), "", 30)


def first_kept(servers: Servers) -> int:
    said = servers.engines.leader().ask("/jsz?streams=1&accounts=1")
    first: int = said["account_details"][0]["stream_detail"][0]["state"]["first_seq"]
    return first


def test_a_machine_goes_on_from_its_own_log_although_the_first_messages_are_gone(servers: Servers) -> None:
    a, _, _ = servers.all
    write_more_than_is_kept(servers, "abc", "x")
    assert first_kept(servers) > 10
    cursor = feeds.now(a)
    a.stop()
    put(servers["b"], "k", "while a is away")
    a.start()
    assert "begins anew" not in a.log()
    assert_equal(servers.all, since=cursor)


def test_a_machine_that_was_away_for_too_long_begins_with_the_store_of_another(servers: Servers) -> None:
    *_, c = servers.all
    epoch = c.status()["epoch"]
    c.stop()
    write_more_than_is_kept(servers, "ab", "y")
    cursor = feeds.now(servers["a"])
    c.start()
    assert "it begins anew with the store of another machine" in c.log()
    put(c, "k", "c is back")
    assert_equal(servers.all, since=cursor)
    assert c.status()["epoch"] == epoch
    assert not (c.data_dir / "fetched").exists()


def test_a_machine_whose_data_are_gone_begins_with_the_store_of_another(servers: Servers) -> None:
    _, b, c = servers.all
    cursor = feeds.now(c)
    b.kill()
    wipe(b, maps=False)
    write_more_than_is_kept(servers, "ac", "z")
    b.start()
    put(b, "k", "b is back")
    assert_equal(servers.all, since=cursor)
    b.stop()
    b.start()
    until_ready(b)
    assert_equal(servers.all, since=cursor)
    assert cluster_of(b)["stopped"] is None
