"""From a request that changes a key to the operation for its shard."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.api.scan import duplicate_names
from kvserver.http.responses import NoMergePatch
from kvserver.one_key import changes
from kvserver.one_key.changes import CHANGES, NEVER, NoChange
from shards.maps.layout import Item
from shards.wire.errors import BadRequest, Forbidden, KVError, PreconditionFailed
from shards.wire.protocol import Condition, Delete, Incr, Patch, Put, Touch
from tests.unit.kvserver.one_key.requests import READS, WRITES, ask

MERGE = "application/merge-patch+json"
ITEM = Item(57, 57, 0, 0, 784_111_777_000, "", b"v", 1)
DATE, EARLIER = "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:36 GMT"


@pytest.mark.parametrize(
    ("method", "query", "operation"),
    [
        ("PUT", b"", Put(b"k", b"")),
        ("PUT", b"ttl=60", Put(b"k", b"", "", 60_000)),
        ("PUT", b"expires=1970-01-01T00:00:02Z&return=previous", Put(b"k", b"", "", 0, 2000, True)),
        ("POST", b"incr=-5&ttl_if_new=1", Incr(b"k", -5, 1000)),
        ("POST", b"ttl=1", Touch(b"k", 1000)),
        ("POST", b"expires=1970-01-01T00:00:02Z", Touch(b"k", 0, 2000)),
        ("POST", b"persist=true", Touch(b"k")),
        ("DELETE", b"", Delete(b"k")),
    ],
)
def test_what_is_asked_is_an_operation(method: str, query: bytes, operation: Any) -> None:
    assert CHANGES[method](ask(method, query)) == operation
    assert CHANGES[method](ask(method, query)) is not CHANGES[method](ask(method, query)), "it is filled in later"
    with pytest.raises(Forbidden, match="write"):
        CHANGES[method](ask(method, query, grants=READS))


def test_a_patch_states_its_type() -> None:
    assert CHANGES["PATCH"](ask("PATCH", content_type=f"{MERGE.upper()}; charset=utf-8")) == Patch(b"k", b"")
    for given_type in (None, "application/json"):
        with pytest.raises(NoMergePatch, match=given_type or "no type"):
            CHANGES["PATCH"](ask("PATCH", content_type=given_type))


def test_a_put_keeps_its_type() -> None:
    assert CHANGES["PUT"](ask("PUT", content_type="a/b")) == Put(b"k", b"", "a/b")
    assert CHANGES["PUT"](ask("PUT", content_type="application/x-www-form-urlencoded")) == Put(b"k", b"")


def test_an_old_value_needs_the_right_to_read() -> None:
    assert CHANGES["PUT"](ask("PUT", grants=WRITES)) == Put(b"k", b"")
    with pytest.raises(Forbidden, match="read"):
        CHANGES["PUT"](ask("PUT", b"return=previous", grants=WRITES))


@pytest.mark.parametrize(
    ("method", "query", "error"),
    [
        ("PUT", b"ttl=1&expires=1970-01-01T00:00:02Z", BadRequest),
        ("PUT", b"incr=1", BadRequest),
        ("POST", b"", NoChange),
        ("POST", b"ttl_if_new=1", BadRequest),
        ("POST", b"ttl=1&ttl_if_new=1", BadRequest),
        ("POST", b"ttl=1&persist=true", BadRequest),
        ("POST", b"incr=1&ttl=1", BadRequest),
        ("DELETE", b"ttl=1", BadRequest),
    ],
)
def test_what_makes_no_sense_is_refused(method: str, query: bytes, error: type[KVError]) -> None:
    with pytest.raises(error):
        CHANGES[method](ask(method, query))


def test_the_body_is_the_value_or_the_patch() -> None:
    put, patch = Put(b"k", b""), Patch(b"k", b"")
    changes.set_body(put, b"v")
    changes.set_body(patch, b'\xef\xbb\xbf{"a":1}')
    assert put.value == b"v" and patch.patch == b'{"a":1}'
    assert changes.fingerprinted_body(put) == ("", b"v")
    assert changes.fingerprinted_body(patch) == (MERGE, b'{"a":1}')
    assert changes.fingerprinted_body(Incr(b"k", 1)) == ("", b"")
    doubled = b'{"a":"%b","a":1}'
    with pytest.raises(BadRequest, match="twice"):
        changes.set_body(patch, doubled % b"x")
    changes.set_body(patch, doubled % (b"x" * duplicate_names.LARGE))  # left to the caller


def test_which_answers_may_have_a_large_value() -> None:
    large = [Patch(b"k", b""), Put(b"k", b"", want_previous=True)]
    small = [Put(b"k", b""), Incr(b"k", 1), Touch(b"k"), Delete(b"k")]
    assert all(map(changes.may_answer_value, large)) and not any(map(changes.may_answer_value, small))


def test_tags_are_compared_by_the_shard() -> None:
    def describe(key: bytes) -> Item | None:
        raise AssertionError("nobody needs to know")

    for headers, condition in (
        ({}, None),
        ({"If_Match": '"57"'}, Condition(if_match=[57])),
        ({"If_None_Match": "*"}, Condition(if_none_match="*")),
        ({"If_Match": '"57"', "If_Unmodified_Since": EARLIER}, Condition(if_match=[57])),
        ({"If_Modified_Since": DATE}, None),
    ):
        assert changes.find_condition(ask("PUT", **headers), False, describe) == condition
    with pytest.raises(BadRequest):
        changes.find_condition(ask("PUT", If_Match="57"), False, describe)


def test_a_date_is_compared_here_and_its_revision_by_the_shard() -> None:
    asked = ask("PUT", If_Unmodified_Since=DATE)
    assert changes.find_condition(asked, False, lambda key: ITEM) == Condition(if_match=[57])
    assert changes.find_condition(asked, False, lambda key: None) == Condition(if_none_match="*")
    late = ask("PUT", If_Unmodified_Since=EARLIER)
    with pytest.raises(PreconditionFailed) as failed:
        changes.find_condition(late, False, lambda key: ITEM)
    assert failed.value.revision == 57
    assert changes.find_condition(late, True, lambda key: ITEM) == NEVER, "it may have been this very request"


@given(st.sampled_from(sorted(CHANGES)), st.binary(max_size=80), st.text("a/;=b "))
def test_no_request_is_a_fault(method: str, query: bytes, content_type: str) -> None:
    try:
        assert CHANGES[method](ask(method, query, content_type=content_type)).key == b"k"
    except KVError as error:
        assert 400 <= error.status < 500
