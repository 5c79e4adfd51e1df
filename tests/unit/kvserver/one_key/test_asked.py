"""What the head of a request for one key says."""

from __future__ import annotations

import pytest

from kvserver.access.grants import EVERYTHING
from kvserver.one_key.asked import Asked
from shards.wire.errors import BadRequest, KeyTooLong, KVError, UnsupportedMediaType
from tests.unit.kvserver.one_key.requests import ask


def test_the_query_is_read_by_the_table_of_the_method() -> None:
    assert ask("PUT", b"ttl=1.5&return=previous").read_parameters() == {"ttl": 1500, "return": "previous"}
    assert ask("POST", b"incr=-1").read_parameters() == {"incr": -1}
    for method, query in (("GET", b"ttl=1"), ("DELETE", b"ttl=1"), ("PATCH", b"ttl=1"), ("POST", b"return=previous")):
        for _ in range(2):  # what is refused is not remembered
            with pytest.raises(BadRequest, match="unknown query parameter"):
                ask(method, query).read_parameters()
    assert ask("HEAD").read_parameters() == {}


def test_a_long_query_means_what_a_short_one_does() -> None:
    assert ask("PUT", b"&" * 500 + b"ttl=1").read_parameters() == ask("PUT", b"ttl=1").read_parameters()


def test_a_key_that_cannot_be_is_refused_first() -> None:
    with pytest.raises(KeyTooLong, match="512 bytes"):
        ask("GET", b"x=1", key=b"k" * 512).read_parameters()
    assert ask("GET", key=b"k" * 511).read_parameters() == {}


def test_the_type_comes_once() -> None:
    assert ask("PUT").read_content_type() == ""
    assert ask("PUT", content_type=" a/b ").read_content_type() == "a/b"
    with pytest.raises(BadRequest, match="twice"):
        Asked("PUT", b"k", b"", ("a/b", "a/b"), {}.get, EVERYTHING).read_content_type()


@pytest.mark.parametrize(
    ("name", "error"), [("Content-Encoding", UnsupportedMediaType), ("Content-Range", BadRequest), ("X", None)]
)
def test_bodies_that_are_not_the_value_are_refused(name: str, error: type[KVError] | None) -> None:
    asked = ask("PUT", **{name.replace("-", "_"): "x"})
    refusals: list[type[KVError]] = []
    for check in (asked.refuse_coded, asked.refuse_partial):
        try:
            check()
        except KVError as refusal:
            refusals.append(type(refusal))
    assert refusals == ([] if error is None else [error])
