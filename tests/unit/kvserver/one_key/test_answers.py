"""From a shard's reply to an answer."""

from __future__ import annotations

import pytest

from kvserver.access.grants import EVERYTHING
from kvserver.http.value_headers import CACHING
from kvserver.one_key.answers import Answer, answer_change, redact
from kvserver.one_key.changes import Change
from shards.wire.errors import Conflict, NotFound, PreconditionFailed, Unavailable
from shards.wire.protocol import Delete, Done, Incr, Patch, Put, Replaced, Replayed, Reply, Touch, Value
from tests.unit.kvserver.one_key.requests import WRITES

OLD = Replaced(7, True, b"old", 0, "a/b", 5)
MADE = Value(7, True, b"2", "text/plain", 1000)
WRITTEN = ["etag", "kv-revision"]


@pytest.mark.parametrize(
    ("change", "reply", "status", "names"),
    [
        (Put(b"k", b""), Done(7, False), 201, WRITTEN),
        (Put(b"k", b""), Done(7, True), 204, WRITTEN),
        (Put(b"k", b""), Done(7, True, None, 1000), 204, [*WRITTEN, "kv-expires"]),
        (Put(b"k", b""), OLD, 200, [*WRITTEN, "kv-previous-revision", "content-type", "cache-control"]),
        (Put(b"k", b""), Replayed(Done(7, True)), 204, ["idempotency-replayed", *WRITTEN]),
        (Put(b"k", b""), Replayed(OLD, True), 204, ["idempotency-replayed", *WRITTEN]),
        (Touch(b"k"), Done(7, True, None, 1000), 204, [*WRITTEN, "kv-expires"]),
        (Delete(b"k"), Done(7, True), 204, ["kv-revision"]),
        (Delete(b"k"), Replayed(Done(7, True)), 204, ["idempotency-replayed", "kv-revision"]),
        (Incr(b"k", 1), MADE, 200, ["content-type", "cache-control", *WRITTEN, "kv-expires"]),
        (Patch(b"k", b""), Value(7, False, b"{}"), 201, ["content-type", "cache-control", *WRITTEN]),
        (Patch(b"k", b""), Replayed(Value(7, True), True), 204, ["idempotency-replayed", *WRITTEN]),
    ],
)
def test_replies(change: Change, reply: Reply, status: int, names: list[str]) -> None:
    answer = answer_change(EVERYTHING, change, reply)
    assert answer.status == status and [name for name, _ in answer.headers] == names
    assert dict(answer.headers)["kv-revision"] == "7"


def test_values_in_answers() -> None:
    assert answer_change(EVERYTHING, Put(b"k", b""), OLD).body == b"old"
    assert answer_change(EVERYTHING, Incr(b"k", 1), MADE).body == b"2"
    hidden = answer_change(WRITES, Incr(b"k", 1), MADE)
    assert hidden == Answer(204, [("etag", '"7"'), ("kv-revision", "7")]), "nor when it expires"


@pytest.mark.parametrize("change", [Touch(b"k"), Delete(b"k")])
def test_nothing_to_change(change: Change) -> None:
    with pytest.raises(NotFound):
        answer_change(EVERYTHING, change, Done(0, False))


def test_a_body_in_a_coding() -> None:
    made = answer_change(EVERYTHING, Incr(b"k", 1), MADE).with_coding("gzip", b"coded")
    assert made.body == b"coded" and dict(made.headers)["etag"] == '"7-gzip"'
    names = [name for name, _ in made.headers]
    assert names == ["content-type", "cache-control", "content-encoding", "etag", "kv-revision", "kv-expires"]
    old = answer_change(EVERYTHING, Put(b"k", b""), OLD).with_coding("gzip", b"coded")
    assert dict(old.headers)["etag"] == '"7"', "it is that of the new value"
    assert dict(old.headers)["content-encoding"] == "gzip"


def test_the_length_of_a_head_gives_way_to_that_of_the_body() -> None:
    answer = Answer(200, [CACHING, ("content-length", "5000"), ("etag", '"7"')], b"v", "", 7)
    assert answer.with_coding("br", b"coded").headers == [CACHING, ("content-encoding", "br"), ("etag", '"7-br"')]


def test_what_is_no_stored_value_has_codings_too() -> None:
    answer = Answer(200, [("content-type", "application/json")], b"[]", "application/json")
    coded = answer.with_coding("br", b"coded")
    assert coded.headers == [*answer.headers, ("content-encoding", "br")] and coded.body == b"coded"


def test_errors_tell_of_the_value_only_who_may_read_it() -> None:
    for error in (PreconditionFailed("the key has another revision", 5), Conflict("the value has 5 bytes")):
        assert redact(EVERYTHING, b"k", error) is error
        hidden = redact(WRITES, b"k", error)
        assert type(hidden) is type(error) and not hidden.detail and not hidden.revision
    down = Unavailable("shard 0 is down")
    assert redact(WRITES, b"k", down) is down
