"""Parts of answers: what is an error of a kvserver, and what it tells."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.client.core.answers import document_of, is_problem, member, problem_of, retry_after_of
from kvserver.client.core.calls import Answer
from kvserver.client.errors import ForeignAnswer, KVError, OutcomeUnknown, PreconditionFailed, Refused

PROBLEM = {"content-type": "application/problem+json; charset=utf-8"}


def test_a_problem_document() -> None:
    document = {"code": "precondition_failed", "detail": "d", "hint": "h", "title": "T", "status": 412, "more": [1]}
    headers = {**PROBLEM, "kv-revision": "57", "x-request-id": "r", "retry-after": "3"}
    error = problem_of(Answer(412, headers, json.dumps(document).encode()))
    assert isinstance(error, PreconditionFailed) and error.revision == 57
    assert (error.detail, error.hint, error.request_id, error.retry_after) == ("d", "h", "r", 3.0)
    assert error.members == {"more": [1], "revision": 57}


@given(
    st.integers(400, 599),
    st.binary() | st.recursive(st.none() | st.text(), st.lists).map(lambda x: json.dumps(x).encode()),
)
def test_whatever_the_body_is_the_status_counts(status: int, body: bytes) -> None:
    error = problem_of(Answer(status, PROBLEM, body))
    assert isinstance(error, KVError) and error.status == status
    assert isinstance(error, Refused) or (status >= 500 and isinstance(error, OutcomeUnknown))


@given(st.dictionaries(st.sampled_from(["code", "detail", "hint", "revision"]), st.none() | st.integers() | st.text()))
def test_members_of_any_type_do_no_harm(document: dict[str, Any]) -> None:
    error = problem_of(Answer(409, PROBLEM, json.dumps(document).encode()))
    assert isinstance(error.code, str) and isinstance(error.detail, str) and isinstance(error.hint, str)


def test_what_is_a_problem() -> None:
    assert is_problem(Answer(400, PROBLEM, b""))
    assert not is_problem(Answer(400, {"content-type": "text/html"}, b""))
    assert not is_problem(Answer(400, {}, b"{}"))


@pytest.mark.parametrize(
    ("text", "seconds"), [("3", 3), ("0", 0), ("", 0), ("soon", 0), ("-1", 0), ("1.5", 0), ("²", 0)]
)
def test_retry_after(text: str, seconds: int) -> None:
    assert retry_after_of(Answer(503, {"retry-after": text}, b"")) == seconds


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_document(body: bytes) -> None:
    with pytest.raises(ForeignAnswer):
        document_of(Answer(200, {"content-type": "application/json"}, body))
    with pytest.raises(ForeignAnswer):
        document_of(Answer(200, {"content-type": "text/html"}, b"{}"))


def test_members_have_their_type() -> None:
    assert member({"a": 1}, "a", int) == 1
    for document in ({}, {"a": "1"}, {"a": True}, [], None):
        with pytest.raises(ForeignAnswer):
            member(document, "a", int)
