"""On whose behalf a proxy asks, and what counts as one address."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.http.proxies import Proxies, limited_address, parse_networks

PROXIES = Proxies("127.0.0.1, 10.0.0.0/8, fd00::/8")
outside = st.ip_addresses(v=4).filter(lambda address: not PROXIES.trusts(str(address)))
inside = st.integers(0, (1 << 24) - 1).map(lambda number: IPv4Address((10 << 24) + number))


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (b"", "127.0.0.1"),
        (b"203.0.113.5", "203.0.113.5"),
        (b"198.51.100.1, 203.0.113.5", "203.0.113.5"),  # the client said the first itself
        (b"198.51.100.1,203.0.113.5", "203.0.113.5"),
        (b"203.0.113.5, 10.1.2.3", "203.0.113.5"),
        (b"10.1.2.3,127.0.0.1", "10.1.2.3"),
        (b"203.0.113.5:4711", "203.0.113.5"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"[2001:db8::1]:4711, fd00::7", "2001:db8::1"),
        (b"::ffff:203.0.113.5", "203.0.113.5"),
        (b"unknown", "127.0.0.1"),
        (b"203.0.113.5, unknown, 10.1.2.3", "10.1.2.3"),
        (b"203.0.113.5,", "127.0.0.1"),
        (b"\xff\xfe", "127.0.0.1"),
    ],
)
def test_the_last_address_that_is_no_proxy_is_the_client(forwarded: bytes, client: str) -> None:
    limited = "" if PROXIES.trusts(client) else limited_address(client)
    assert PROXIES.find_client("127.0.0.1", forwarded) == (client, limited)


@given(st.lists(st.text(max_size=20)), outside, st.lists(inside, max_size=3))
def test_what_a_client_says_itself_changes_nothing(
    said: list[str], client: IPv4Address, hops: list[IPv4Address]
) -> None:
    header = ",".join([*said, str(client), *map(str, hops)]).encode("latin-1", "replace")
    assert PROXIES.find_client("10.0.0.1", header) == (str(client), str(client))


def test_long_headers_are_read_alike() -> None:
    for length in (255, 256, 257, 5000):
        header = b"203.0.113.5, 10.0.0.1".rjust(length, b",")
        assert PROXIES.find_client("10.0.0.1", header) == ("203.0.113.5", "203.0.113.5")


def test_nobody_is_trusted_unless_named() -> None:
    assert not Proxies("").trusts("127.0.0.1")
    assert Proxies("0.0.0.0/0").trusts("203.0.113.5")
    assert PROXIES.trusts("::ffff:10.0.0.1") and PROXIES.trusts("fd00::1")
    assert not PROXIES.trusts("11.0.0.1") and not PROXIES.trusts("") and not PROXIES.trusts("unix")


@pytest.mark.parametrize("text", ["localhost", "10.0.0.0/33", "*", "1.2.3.4,,", "a,127.0.0.1"])
def test_what_is_no_list_of_networks_is_told_what_would_be_right(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected .* 127\.0\.0\.1,10\.0\.0\.0/8"):
        parse_networks(text)


def test_one_host_has_one_address() -> None:
    assert limited_address("::ffff:1.2.3.4") == limited_address("1.2.3.4") == "1.2.3.4"
    assert (
        limited_address("2001:db8:0:1::5")
        == limited_address("2001:db8:0:1:ffff::")
        != limited_address("2001:db8:0:2::5")
    )
    assert limited_address("fe80::1%eth0") == limited_address("fe80::2%eth1")
    assert limited_address("unix") == "unix"


@given(st.ip_addresses())
def test_a_group_is_one_of_its_own(address: object) -> None:
    text = limited_address(str(ip_address(str(address))))
    assert limited_address(text.partition("/")[0]) == text
