"""Grants against a naive oracle: every key over a small alphabet, one by one."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.access.grants import EVERYTHING, VERBS, Grants, Verb
from shards.wire.errors import Forbidden

KEYS = [bytes(letters) for size in range(1, 5) for letters in product(b"ab/", repeat=size)] + [b"z"]
"""All that prefixes of these letters can tell apart, and one that only the empty prefix grants."""
prefixes = st.text("ab/", max_size=3).map(str.encode)
pairs = st.lists(st.tuples(st.sampled_from(VERBS), prefixes), max_size=6)


def allowed(given_: list[tuple[Verb, bytes]], verb: Verb, key: bytes) -> bool:
    return any(each == verb and key.startswith(prefix) for each, prefix in given_)


@given(pairs, st.sampled_from(VERBS))
def test_a_key_is_granted_if_it_starts_with_the_prefix_of_a_grant(pairs: list[tuple[Verb, bytes]], verb: Verb) -> None:
    grants = Grants.of("n", "i", pairs)
    for key in KEYS:
        assert grants.may(verb, key) == allowed(pairs, verb, key)
        if grants.may(verb, key):
            grants.require(verb, key)
        else:
            with pytest.raises(Forbidden, match=verb):
                grants.require(verb, key)


@given(pairs, st.sampled_from(VERBS), prefixes)
def test_the_parts_of_a_prefix_hold_exactly_the_keys_that_are_granted(
    pairs: list[tuple[Verb, bytes]], verb: Verb, prefix: bytes
) -> None:
    grants = Grants.of("n", "i", pairs)
    parts = grants.prefixes_within(verb, prefix)
    for key in KEYS:
        assert key.startswith(parts) == (key.startswith(prefix) and allowed(pairs, verb, key))
    assert list(parts) == sorted(parts)
    assert not any(a != b and a.startswith(b) for a in parts for b in parts)
    assert grants.may_all(verb, prefix) == (parts == (prefix,))


@given(pairs, st.sampled_from(VERBS), prefixes)
def test_a_prefix_is_granted_only_inside_one_grant(pairs: list[tuple[Verb, bytes]], verb: Verb, prefix: bytes) -> None:
    grants = Grants.of("n", "i", pairs)
    inside = any(each == verb and prefix.startswith(granted) for each, granted in pairs)
    assert grants.may_all(verb, prefix) == inside
    if inside:
        grants.require_all(verb, prefix)
    else:
        with pytest.raises(Forbidden, match=verb):
            grants.require_all(verb, prefix)


@given(pairs, pairs)
def test_what_grants_the_same_is_the_same(some: list[tuple[Verb, bytes]], others: list[tuple[Verb, bytes]]) -> None:
    a, b = Grants.of("n", "i", some), Grants.of("n", "i", others)
    same = all(a.may(verb, key) == b.may(verb, key) for verb in VERBS for key in KEYS)
    assert same == (a == b)
    feeds_alike = all(a.may("feed", key) == b.may("feed", key) for key in KEYS)
    assert feeds_alike == (a.fingerprint() == b.fingerprint())


def test_without_tokens_everything_is_granted() -> None:
    for verb in VERBS:
        assert (
            EVERYTHING.may(verb, b"k")
            and EVERYTHING.may_all(verb, b"")
            and EVERYTHING.prefixes_within(verb, b"p") == (b"p",)
        )


def test_refusals_name_the_verb_and_where_it_is_missing() -> None:
    grants = Grants.of("n", "i", [("read", b"a/")])
    with pytest.raises(Forbidden, match=r'write on the key "a/\\u0000"'):
        grants.require("write", b"a/\0")
    with pytest.raises(Forbidden, match='read on every key that starts with "b/"'):
        grants.require_all("read", b"b/")
    with pytest.raises(Forbidden, match="read on all keys"):
        grants.require_all("read", b"")
    with pytest.raises(Forbidden, match=r"does not grant admin$"):
        grants.require_all("admin", b"")


@given(pairs, pairs)
def test_a_part_is_handed_on_if_all_of_it_is_granted(
    own: list[tuple[Verb, bytes]], part: list[tuple[Verb, bytes]]
) -> None:
    grants = Grants.of("n", "i", own)
    if not all(grants.may_all(verb, prefix) for verb, prefix in part):
        with pytest.raises(Forbidden):
            grants.hand_on(part, 100, "first")
        return
    handed = grants.hand_on(part, 100, "first")
    assert (handed.name, handed.id, handed.ends_ms, handed.handed_on) == ("n", "i", 100, "first")
    for verb in VERBS:
        for key in KEYS:
            assert handed.may(verb, key) == allowed(part, verb, key)
    assert handed.hand_on(part, 99, "second").ends_ms == 99
    assert handed.hand_on(part, 99, "second").handed_on == "first"
    assert handed.hand_on(part, 101, "second").ends_ms == 100


@given(pairs, pairs)
def test_within_others_only_what_both_grant_is_left(
    one: list[tuple[Verb, bytes]], other: list[tuple[Verb, bytes]]
) -> None:
    grants, outer = Grants.of("n", "i", one), Grants.of("n", "i", other)
    left = grants.within(outer)
    for verb in VERBS:
        for key in KEYS:
            assert left.may(verb, key) == (allowed(one, verb, key) and allowed(other, verb, key))
    assert grants.within(EVERYTHING) == grants
