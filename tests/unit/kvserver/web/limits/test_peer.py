"""The client of a connection, and what it holds before its request is whole."""

from __future__ import annotations

import pytest

from kvserver.http.proxies import Proxies
from kvserver.web.limits.peer import Peer
from shards.wire.errors import Overloaded
from tests.unit.kvserver.web.limits.stub import make_load

PROXY = ("10.0.0.1", 4000)


def test_a_connection_counts_until_it_is_lost() -> None:
    load, _ = make_load(connections=1)
    first, second = Peer(load, Proxies("")), Peer(load, Proxies(""))
    assert first.connect(("192.0.2.1", 1)) == 0 and second.connect(("192.0.2.1", 2)) == 1
    assert first.address == ("192.0.2.1", 1) and first.quota is second.quota
    quota = first.quota
    assert quota is not None
    second.disconnect()
    second.disconnect()
    assert quota.connections == 1
    first.disconnect()
    assert quota.is_empty


def test_bytes_that_belong_to_no_whole_request_are_counted_once() -> None:
    load, _ = make_load(unfinished_bytes=100)
    peer = Peer(load, Proxies(""))
    peer.connect(("192.0.2.1", 1))
    assert peer.quota is not None
    for size in (10, 60):
        peer.count_pending(True, size)
        assert (peer.quota.unfinished, peer.quota.bytes, load.bytes_held) == (1, size, size)
    peer.check_quota(40)
    with pytest.raises(Overloaded):
        peer.check_quota(41)
    with pytest.raises(Overloaded):
        peer.check_bytes(41)
    peer.disconnect()
    assert load.bytes_held == 0 and load.quotas.is_empty


def test_behind_a_trusted_proxy_each_request_has_a_client_of_its_own() -> None:
    load, _ = make_load(connections=1)
    peer = Peer(load, Proxies("10.0.0.0/8"))
    assert peer.connect(PROXY) == 0
    assert peer.quota is None, "a proxy has no quota"
    peer.identify(b"198.51.100.1, 203.0.113.5")
    assert peer.address == ("203.0.113.5", 0) and peer.quota is load.quotas.of_address("203.0.113.5")
    peer.count_pending(True, 5)
    peer.identify(b"203.0.113.6")
    assert load.bytes_held == 0, "what the former client held is given back"
    peer.forget_client()
    assert peer.address == PROXY
    peer.identify(b"")
    assert peer.address == PROXY and peer.quota is None


def test_others_cannot_speak_for_their_clients() -> None:
    load, _ = make_load()
    peer = Peer(load, Proxies("10.0.0.0/8"))
    peer.connect(("192.0.2.1", 1))
    quota = peer.quota
    peer.identify(b"203.0.113.5")
    peer.forget_client()
    assert peer.address == ("192.0.2.1", 1) and peer.quota is quota


def test_a_unix_socket_has_no_address() -> None:
    load, _ = make_load()
    peer = Peer(load, Proxies("10.0.0.0/8"))
    peer.identify(b"203.0.113.5")
    peer.forget_client()
    assert peer.address is None and peer.quota is None
