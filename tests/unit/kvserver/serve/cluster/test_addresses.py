"""The machines of `--cluster`."""

from __future__ import annotations

import pytest

from kvserver.serve.cluster.addresses import LARGEST_PORT, Machine, parse_machines


def test_machines() -> None:
    assert parse_machines("a=10.0.0.1, b=kv-b:4300,c=[::1]:1,d=[fe80::2],e=kv-e") == (
        Machine("a", "10.0.0.1", 4222),
        Machine("b", "kv-b", 4300),
        Machine("c", "::1", 1),
        Machine("d", "fe80::2", 4222),
        Machine("e", "kv-e", 4222),
    )
    assert parse_machines("nats://10.0.0.1:4222,nats://10.0.0.2:4222") == ()


def test_the_places_of_an_engine() -> None:
    machine = Machine("c", "::1", LARGEST_PORT)
    assert (machine.address, machine.route, machine.monitor) == ("[::1]:61535", "[::1]:63535", "127.0.0.1:65535")
    assert machine.ports == (61535, 63535, 65535)


def test_engines_at_different_addresses_of_loopback_do_not_meet_at_their_monitors() -> None:
    hosts = ("127.0.0.2", "localhost", "10.0.0.1")
    assert [Machine("a", host).monitor for host in hosts] == ["127.0.0.2:8222", "127.0.0.1:8222", "127.0.0.1:8222"]


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.2", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("h", False)],
)
def test_loopback(host: str, is_loopback: bool) -> None:
    assert Machine("a", host).is_loopback is is_loopback


@pytest.mark.parametrize(
    "place",
    ["", ":1", "h:", "h:0", f"h:{LARGEST_PORT + 1}", "h:x", "h:1:2", "[::1", "[::1]x", "[]", 'h"', "h /x", "u@h"],
)
def test_what_is_no_address(place: str) -> None:
    with pytest.raises(ValueError, match=r"expected (the address|a port)"):
        parse_machines(f"a=10.0.0.1,b={place},c=10.0.0.3")


def test_two_machines_at_one_address() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.1:4222 is there twice"):
        parse_machines("a=10.0.0.1,b=10.0.0.1:4222,c=10.0.0.3")


@pytest.mark.parametrize(("port", "common"), [(6222, 6222), (8222, 8222), (2222, 4222)])
def test_two_machines_on_one_host_whose_ports_meet(port: int, common: int) -> None:
    like = "h:4222,b=h:4322,c=h:4422"
    with pytest.raises(ValueError, match=f"a and b both need port {common} of h, .* as a={like}"):
        parse_machines(f"a=h,b=h:{port},c=h:4322")
    assert parse_machines(f"a=h,b=i:{port},c=h:4322")
    assert parse_machines(f"a={like}")


@pytest.mark.parametrize("count", [2, 4, 6])
def test_a_number_of_machines_that_gains_nothing(count: int) -> None:
    with pytest.raises(ValueError, match=f"expected 1, 3 or 5 machines, not {count}"):
        parse_machines(",".join(f"{name}=10.0.0.{at}" for at, name in enumerate("abcdef"[:count], 1)))
