"""The load of a worker: requests in flight of all workers, and bytes."""

from __future__ import annotations

import pytest

from kvserver.access.grants import EVERYTHING, Grants
from kvserver.web.limits.load import MOST_BYTES, MOST_IN_FLIGHT, MOST_OWED_BYTES
from shards.host.board import WorkerRow
from shards.wire.errors import Overloaded
from tests.unit.kvserver.web.limits.stub import Row, make_load

IN_FLIGHT = WorkerRow.in_flight.index
OTHER = Row(500, connections=3)


def test_requests_of_all_living_workers_count() -> None:
    words = [0] * 1000
    load, counts = make_load(words, (OTHER,), spare=0)
    words[OTHER.base + IN_FLIGHT] = MOST_IN_FLIGHT - 1
    load.check_in_flight(())
    assert load.accepts_hot_path
    load.begin_request(())
    assert words[IN_FLIGHT] == 1 == load.in_flight
    assert not load.accepts_hot_path
    with pytest.raises(Overloaded, match="1024 requests are in flight"):
        load.check_in_flight(())
    assert counts.overloads == 1
    load.end_request(())
    assert words[IN_FLIGHT] == 0
    load.check_in_flight(())


def test_spare_places_are_for_those_who_have_few() -> None:
    """Half of them, divided by the number of workers, is few."""
    words = [0] * 1000
    load, _ = make_load(words, (OTHER,), spare=8)
    words[OTHER.base + IN_FLIGHT] = MOST_IN_FLIGHT
    quota = load.quotas.of_address("a")
    quota.in_flight = 1
    load.check_in_flight((quota,))
    quota.in_flight = 2
    with pytest.raises(Overloaded, match="this address has 2 of them"):
        load.check_in_flight((quota,))
    words[OTHER.base + IN_FLIGHT] = MOST_IN_FLIGHT + 8
    with pytest.raises(Overloaded):
        load.check_in_flight(())


def test_a_request_counts_in_the_quotas_of_its_address_and_its_token() -> None:
    load, _ = make_load()
    address = load.quotas.of_address("a")
    assert load.find_quotas(address, EVERYTHING) == (address,)
    named = Grants.of("name", "t", [])
    token = load.quotas.of_token("t")
    assert load.find_quotas(address, named) == (address, token) and load.find_quotas(None, named) == (token,)
    load.begin_request((address, token))
    assert (address.in_flight, token.in_flight) == (1, 1)
    load.end_request((address, token))
    assert load.quotas.is_empty


def test_the_fewest_connections_are_those_of_workers_that_accept() -> None:
    assert make_load()[0].fewest_peer_connections() == 1 << 62
    stopping = Row(600, connections=1, state=WorkerRow.UP + 1)
    assert make_load(others=(OTHER, Row(700, connections=9), stopping))[0].fewest_peer_connections() == 3


def test_answers_are_limited_for_the_worker_and_for_each_address() -> None:
    load, counts = make_load()
    quota = load.quotas.of_address("a")
    load.owe_bytes(quota, MOST_OWED_BYTES)
    assert load.answers_full(quota) and not load.answers_full(None)
    assert not load.answers_full(quota, 1), "its own answer may exceed the limit"
    with pytest.raises(Overloaded, match="this address"):
        load.check_answer_budget(quota)
    load.owe_bytes(None, MOST_BYTES - MOST_OWED_BYTES)
    with pytest.raises(Overloaded, match="too many answers"):
        load.check_answer_budget(None)
    assert counts.overloads == 2 and not load.accepts_hot_path
    load.owe_bytes(quota, -MOST_OWED_BYTES)
    load.check_answer_budget(quota)


def test_bytes_of_requests_are_limited_for_the_worker_and_for_each_address() -> None:
    load, counts = make_load(unfinished_bytes=100, unfinished=1)
    assert load.relaxed_bytes == 100
    quota = load.quotas.of_address("a")
    load.check_quota(quota, 100, False)
    with pytest.raises(Overloaded, match="this address"):
        load.check_quota(quota, 101, False)
    quota.unfinished = 2
    load.check_quota(quota, 0, False)
    with pytest.raises(Overloaded, match="are incomplete"):
        load.check_quota(quota, 0, True)
    load.bytes_held = MOST_BYTES
    with pytest.raises(Overloaded, match="too many bytes"):
        load.check_quota(None, 1, False)
    assert counts.overloads == 3


def test_a_stopping_worker_has_no_hot_path() -> None:
    load, _ = make_load()
    load.stopping = True
    assert not load.accepts_hot_path
