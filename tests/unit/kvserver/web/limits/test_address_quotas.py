"""Quotas: what one address holds, and when it is too much."""

from __future__ import annotations

import gc

import pytest

from kvserver.settings import ServerSettings
from kvserver.web.limits.address_quotas import Quota, QuotaLimits, Quotas
from shards.wire.errors import Overloaded

LIMITS = QuotaLimits(connections=2, unfinished=1, unfinished_bytes=100, upload_rate=0, spare=0)


def test_limits_are_settings() -> None:
    assert QuotaLimits.of(ServerSettings(connections_per_address=7)).connections == 7


def test_the_excess_of_connections_is_told() -> None:
    quotas = Quotas(LIMITS)
    quota = quotas.of_address("a")
    assert [quotas.add_connection(quota) for _ in range(4)] == [-1, 0, 1, 2]
    unlimited = Quotas(LIMITS._replace(connections=0))
    assert unlimited.add_connection(unlimited.of_address("a")) == 0


def test_an_address_and_a_token_of_one_name_have_quotas_of_their_own() -> None:
    quotas = Quotas(LIMITS)
    address, token = quotas.of_address("x"), quotas.of_token("x")
    assert address is quotas.of_address("x") and token is quotas.of_token("x") and address is not token
    assert (address.holder, token.holder) == ("this address", "this token")


def test_a_quota_that_nothing_refers_to_is_forgotten() -> None:
    quotas = Quotas(LIMITS)
    quota = quotas.of_address("a")
    quota.bytes = 5
    assert not quotas.is_empty and not quota.is_empty
    del quota
    gc.collect()
    assert quotas.is_empty and quotas.of_address("a").bytes == 0


def test_requests_that_are_not_whole_are_limited_by_number_and_by_bytes() -> None:
    quotas, quota = Quotas(LIMITS), Quota("this address")
    quota.unfinished, quota.bytes = 1, 60
    quotas.check_unfinished(quota, 40)
    with pytest.raises(Overloaded, match="more than 100 bytes"):
        quotas.check_unfinished(quota, 41)
    quota.unfinished = 2
    with pytest.raises(Overloaded, match="more than 1 requests"):
        quotas.check_unfinished(quota)
    quotas.check_bytes(quota, 40)
