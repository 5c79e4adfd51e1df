"""Where an answer ends."""

from __future__ import annotations

import pytest

from kvserver.client.transport.address import find_address
from kvserver.commands.operate.bench import request_bytes
from kvserver.commands.operate.load import LoadFailed, Measured, answer_end


def test_an_answer_ends_behind_its_body() -> None:
    head = b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 5\r\n\r\n"
    assert answer_end(head + b"12345") == (200, len(head) + 5)
    assert answer_end(head) == (200, len(head) + 5)
    assert answer_end(head[:-1]) is None
    assert answer_end(b"") is None
    bare = b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n"
    assert answer_end(bare) == (204, len(bare))
    assert answer_end(head.replace(b"\r\n\r\n", b"\r\n\r\ncontent-length: 9\r\n\r\n"))[1] == len(head) + 5  # type: ignore[index]


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n"]
)
def test_what_is_no_kvserver(answer: bytes) -> None:
    with pytest.raises(LoadFailed, match="no kvserver"):
        answer_end(answer)


def test_quantiles_and_rates() -> None:
    measured = Measured(2.0, [0.4, 0.1, 0.2, 0.3], {200: 4})
    assert (measured.rate, measured.quantile(0.5), measured.quantile(0.99), measured.quantile(1)) == (
        2.0,
        0.3,
        0.4,
        0.4,
    )
    assert (Measured().rate, Measured().quantile(0.5)) == (0.0, 0.0)


def test_requests_are_whole() -> None:
    address = find_address("h:1/base", {})
    assert request_bytes(address, "PUT", "a b", b"v", "t") == (
        b"PUT /base/v1/kv/a%20b HTTP/1.1\r\nHost: h:1\r\nAuthorization: Bearer t\r\n"
        b"Content-Type: application/octet-stream\r\nContent-Length: 1\r\n\r\nv"
    )
    assert request_bytes(address, "GET", "k", b"", None) == b"GET /base/v1/kv/k HTTP/1.1\r\nHost: h:1\r\n\r\n"
