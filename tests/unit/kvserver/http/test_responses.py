"""How errors are told: MemoryKV's bodies at the root, problems to who wants them and to version 1."""

from __future__ import annotations

import json

import pytest

from kvserver.http.responses import WrongMethod, render_error
from shards.wire.errors import (
    ERRORS,
    BadKey,
    BadRequest,
    Forbidden,
    InsufficientStorage,
    KeyTooLong,
    KVError,
    NoSuchResource,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    RequestTimeout,
    Unavailable,
    ValueTooLarge,
)


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (BadKey("Invalid URL: Invalid UTF-8 in `key`"), 400, b"Invalid URL: Invalid UTF-8 in `key`"),
        (BadRequest(), 400, b""),
        (NoSuchResource(), 404, b""),
        (Forbidden("x"), 403, b""),
        (NotFound("x"), 404, b""),
        (WrongMethod("GET"), 405, b""),
        (RequestTimeout("x"), 408, b"request timed out"),
        (ValueTooLarge("x"), 413, b"length limit exceeded"),
        (KeyTooLong("x"), 414, b""),
        (KVError("x"), 500, b""),
        (Overloaded("x"), 503, b"service is overloaded, try again later"),
        (Unavailable("shard 1 is down"), 503, b"service is overloaded, try again later"),
        (OutcomeUnknown("x"), 504, b""),
        (InsufficientStorage("x"), 507, b""),
    ],
)
def test_memorykvs_bodies(error: KVError, status: int, body: bytes) -> None:
    answer = render_error(error, b"/k", b"*/*", b"id")
    headers = dict(answer.headers)
    assert (answer.status, answer.body) == (status, body)
    assert headers.get(b"content-type") == (b"text/plain; charset=utf-8" if body else None)
    assert headers[b"content-length"] == b"%d" % len(body)
    assert headers[b"x-request-id"] == b"id"
    assert (b"retry-after" in headers) == (status == 503)
    assert headers.get(b"allow") == (b"GET" if status == 405 else None)


@pytest.mark.parametrize("error", ERRORS.values())
@pytest.mark.parametrize(
    ("path", "accept"), [(b"/v1/status", b""), (b"/k", b"text/plain, Application/Problem+JSON;q=0.5")]
)
def test_problems(error: type[KVError], path: bytes, accept: bytes) -> None:
    answer = render_error(error("what was wrong"), path, accept, b"a-1")
    assert dict(answer.headers)[b"content-type"] == b"application/problem+json"
    assert json.loads(answer.body) == {
        "type": f"/docs/errors/{error.code}",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": "what was wrong",
        "hint": error.hint,
        "request_id": "a-1",
    }


@pytest.mark.parametrize(
    ("accept", "problem"),
    [
        (b"application/problem+json", True),
        (b"text/html;q=0.5, APPLICATION/Problem+JSON ; q=0.001", True),
        (b",application/problem+json;a=b", True),
        (b"application/problem+json;q=0", False),
        (b"application/problem+json; Q=0.00", False),
        (b"application/problem+jsonx", False),
        (b"x-application/problem+json", False),
        (b"text/plain;a=application/problem+json", False),
        (b"*/*", False),
    ],
)
def test_who_wants_problems(accept: bytes, problem: bool) -> None:
    headers = dict(render_error(NotFound(), b"/k", accept, b"a-1").headers)
    assert (headers.get(b"content-type") == b"application/problem+json") is problem
