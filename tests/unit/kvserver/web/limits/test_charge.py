"""The charge of a request: whatever was charged is given back once."""

from __future__ import annotations

from kvserver.web.limits.charge import Charge
from tests.unit.kvserver.web.limits.stub import make_load


def test_a_charge_is_added_to_worker_and_address_and_given_back() -> None:
    load, _ = make_load()
    quota = load.quotas.of_address("a")
    charge = Charge(load, quota)
    charge.hold_bytes(10)
    charge.owe_bytes(7)
    charge.begin((quota,))
    assert (load.bytes_held, load.bytes_owed, load.in_flight) == (10, 7, 1)
    assert (quota.bytes, quota.owed, quota.in_flight) == (10, 7, 1)
    charge.release()
    assert (load.bytes_held, load.bytes_owed, load.in_flight) == (0, 0, 0) and quota.is_empty
    charge.release()
    assert (load.bytes_held, load.bytes_owed, load.in_flight) == (0, 0, 0)


def test_a_request_leaves_its_place_before_its_bytes() -> None:
    load, _ = make_load()
    charge = Charge(load)
    charge.hold_bytes(10)
    charge.begin(())
    charge.end()
    charge.end()
    assert load.in_flight == 0 and load.bytes_held == 10
    charge.release()
    assert load.bytes_held == 0
