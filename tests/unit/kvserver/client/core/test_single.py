"""The calls about one key: what is sent, and how answers are read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kvserver.client.core import single
from kvserver.client.core.calls import Answer, Call, Kind
from kvserver.client.core.single import Content
from kvserver.client.errors import AnswerWithheld, BadRequest, ForeignAnswer
from kvserver.client.model import UNCHANGED, UNSET, Entry, Exchanged, Meta, Patched, Written

V = Content(b"v", "text/plain", "60", None)
PROBLEM = {"content-type": "application/problem+json"}


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def sent(call: Call[Any]) -> tuple[str, str, dict[str, str]]:
    return call.method, call.target, dict(call.headers)


def test_what_is_sent() -> None:
    typed = {"Content-Type": "text/plain"}
    assert sent(single.get("t/", "k")) == ("GET", "/v1/kv/t/k", {})
    assert sent(single.get("", "k", (0, 5))) == ("GET", "/v1/kv/k", {"Range": "bytes=0-5"})
    assert sent(single.get("", "k", (2, None))) == ("GET", "/v1/kv/k", {"Range": "bytes=2-"})
    assert sent(single.head("", "k"))[0] == "HEAD"
    assert sent(single.get_if_changed("", "k", 5))[2] == {"If-None-Match": '"5"'}
    assert sent(single.put("", "k", V)) == ("PUT", "/v1/kv/k?ttl=60", typed)
    assert sent(single.put("", "k", V, 5))[2] == typed | {"If-Match": '"5"'}
    assert sent(single.create("", "k", V))[2] == typed | {"If-None-Match": "*"}
    assert sent(single.exchange("", "k", V))[1] == "/v1/kv/k?return=previous&ttl=60"
    assert sent(single.patch("", "k", {}, 5))[2] == {
        "Content-Type": "application/merge-patch+json",
        "If-Match": '"5"',
    }
    assert sent(single.incr("", "k", -5, 60)) == ("POST", "/v1/kv/k?incr=-5&ttl_if_new=60", {})
    assert sent(single.touch("", "k", persist=True)) == ("POST", "/v1/kv/k?persist=true", {})
    assert sent(single.delete("", "k", 0)) == ("DELETE", "/v1/kv/k", {"If-None-Match": "*"})


def test_what_repeating_would_do() -> None:
    kinds = [call.kind for call in (single.put("", "k", V), single.put("", "k", V, 0), single.put("", "k", V, 5))]
    assert kinds == [Kind.WRITE, Kind.CREATE, Kind.CONDITIONAL]
    assert single.get("", "k").kind is single.head("", "k").kind is Kind.READ


def test_how_answers_are_read() -> None:
    value = answer(
        200,
        b"v",
        kv_revision="5",
        content_type="a/b",
        kv_expires="2026-11-22T11:40:00.123Z",
        last_modified="Sun, 22 Nov 2026 11:40:01 GMT",
    )
    expires = datetime(2026, 11, 22, 11, 40, 0, 123_000, UTC)
    modified = datetime(2026, 11, 22, 11, 40, 1, tzinfo=UTC)
    assert single.get("t/", "k").read(value) == Entry("k", b"v", 5, "a/b", expires, modified)
    head = Answer(200, {**value.headers, "content-length": "1"}, b"")
    assert single.head("", "k").read(head) == Meta("k", 1, 5, "a/b", expires, modified)
    assert single.get_if_changed("", "k", 5).read(answer(304)) is UNCHANGED
    assert single.put("", "k", V).read(answer(201, kv_revision="6")) == Written(6, True)
    assert single.put("", "k", V).read(answer(204, kv_revision="6")) == Written(6, False)
    assert single.exchange("", "k", V).read(answer(201, kv_revision="6")) == Exchanged(6, None)
    before = answer(200, b"old", kv_revision="6", kv_previous_revision="5", content_type="c/d")
    assert single.exchange("", "k", V).read(before) == Exchanged(6, Entry("k", b"old", 5, "c/d"))
    assert single.patch("", "k", {}).read(answer(200, b'{"a":1}', kv_revision="6")) == Patched(6, {"a": 1})
    assert single.incr("", "k").read(answer(200, b"-9223372036854775808", kv_revision="6")) == -(2**63)
    assert single.touch("", "k", ttl=1).read(answer(204, kv_revision="6")) == 6
    assert single.delete("", "k").read(answer(204, kv_revision="6")) is True
    for call in (single.get("", "k"), single.head("", "k"), single.delete("", "k")):
        assert not call.read(Answer(404, PROBLEM, b""))


@pytest.mark.parametrize("call", [single.patch("", "k", {}), single.incr("", "k"), single.exchange("", "k", V)])
def test_a_result_that_is_not_told(call: Call[Any]) -> None:
    with pytest.raises(AnswerWithheld) as raised:
        call.read(answer(204, kv_revision="6"))
    assert raised.value.revision == 6


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (single.get("", "k"), answer(200, b"v")),
        (single.get("", "k"), answer(200, b"v", kv_revision="-5")),
        (single.get("", "k"), answer(204, kv_revision="5")),
        (single.get("", "k"), answer(404)),
        (single.head("", "k"), answer(200, kv_revision="5")),
        (single.put("", "k", V), answer(200, kv_revision="5")),
        (single.put("", "k", V), answer(204)),
        (single.patch("", "k", {}), answer(200, b"{", kv_revision="5")),
        (single.incr("", "k"), answer(200, b"1.5", kv_revision="5")),
        (single.delete("", "k"), answer(204)),
        (single.delete("", "k"), answer(404)),
    ],
)
def test_what_is_no_answer_of_a_kvserver(call: Call[Any], told: Answer) -> None:
    with pytest.raises(ForeignAnswer):
        call.read(told)


def test_what_is_refused_before_it_is_sent() -> None:
    for wrong in (
        lambda: Content.of(b"", UNSET, None, 60, "2030-01-01T00:00:00Z"),
        lambda: single.touch("", "k"),
        lambda: single.touch("", "k", ttl=1, persist=True),
        lambda: single.put("", "k", V, -1),
        lambda: single.get("", "k", (-1, 5)),
    ):
        with pytest.raises(BadRequest):
            wrong()
    for mistyped in (lambda: single.incr("", "k", 1.5), lambda: single.put("", "k", V, "5")):  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            mistyped()


@pytest.mark.parametrize("body", [b"5" * 5000, b"5" * 20, "²".encode("latin-1"), b"-", b" 5"])
def test_an_answer_that_is_no_integer_of_64_bits(body: bytes) -> None:
    with pytest.raises(ForeignAnswer):
        single.incr("", "k").read(answer(200, body, kv_revision="5"))


def test_the_longest_integer_of_64_bits() -> None:
    assert single.incr("", "k").read(answer(200, b"-9223372036854775808", kv_revision="5")) == -(2**63)


def test_a_range_that_ends_before_it_starts() -> None:
    assert sent(single.get("", "k", (5, 5)))[2] == {"Range": "bytes=5-5"}
    with pytest.raises(BadRequest, match=r"\(5, 2\)"):
        single.get("", "k", (5, 2))


def test_half_a_surrogate_pair_is_no_text() -> None:
    for text in ("\ud800", "ok \udfff"):
        with pytest.raises(BadRequest, match="UTF-8"):
            Content.of(text, UNSET, None, None, None)
        with pytest.raises(BadRequest, match="UTF-8"):
            Content.of(UNSET, {"a": text}, None, None, None)
        with pytest.raises(BadRequest, match="UTF-8"):
            single.patch("", "k", {"a": text})


def test_why_an_answer_is_withheld() -> None:
    read = single.incr("", "k").read
    with pytest.raises(AnswerWithheld, match="the token may not read"):
        read(answer(204, kv_revision="5"))
    with pytest.raises(AnswerWithheld, match="answer was lost"):
        read(answer(204, kv_revision="5", idempotency_replayed="true"))
