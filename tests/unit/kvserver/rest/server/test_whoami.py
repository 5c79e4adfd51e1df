"""Grants as a client is told them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvserver.access.grants import EVERYTHING, NOTHING, VERBS, Grants
from kvserver.rest.server.whoami import describe_grants

PREFIXES = st.sampled_from(["", "a", "a/", "a/b", "b", "é"])


@given(st.lists(st.tuples(st.sampled_from(VERBS), PREFIXES)))
def test_what_is_told_allows_what_is_granted(pairs: list[tuple[str, str]]) -> None:
    grants = Grants.of("t", "1", [(verb, prefix.encode()) for verb, prefix in pairs])  # type: ignore[misc]
    told = describe_grants(grants)
    assert told["name"] == "t"
    prefixes = [row["prefix"].encode() for row in told["grants"]]
    assert prefixes == sorted(set(prefixes)) and all(row["allow"] for row in told["grants"])
    for key in ("", "a", "a/", "a/b", "a/bc", "b", "c", "é/x"):
        for verb in VERBS:
            allowed = any(key.startswith(row["prefix"]) and verb in row["allow"] for row in told["grants"])
            assert allowed == grants.may(verb, key.encode())


def test_without_tokens_and_without_grants() -> None:
    assert describe_grants(EVERYTHING) == {"name": None, "grants": [{"prefix": "", "allow": list(VERBS)}]}
    assert describe_grants(NOTHING) == {"name": None, "grants": []}
