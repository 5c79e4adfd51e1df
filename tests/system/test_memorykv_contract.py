"""MemoryKV's own answers, asked for again: `memorykv-answers.json` holds what MemoryKV answered to raw requests, in
their order, and the lines its feed showed after each. Where we deviate, the file says so and `DEVIATIONS` says how."""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import brotli
import pytest
import zstandard
from websockets.sync.client import ClientConnection, connect

from tests.system.harness import Server

RECORDED = json.loads((Path(__file__).parent / "memorykv-answers.json").read_text())["answers"]

DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "br": brotli.decompress,
    "zstd": lambda body: zstandard.ZstdDecompressor().decompressobj().decompress(body),
}


class Answer(NamedTuple):
    """What came back; `body` after undoing its coding."""

    interim: str
    status: int
    headers: dict[str, str]
    body: bytes


class Line(NamedTuple):
    """A line of the feed, long ones by their length and sum, as they stand in the record."""

    text: str

    @classmethod
    def of(cls, text: str) -> Line:
        raw = text.encode()
        return cls(text if len(raw) < 100_000 else f"{len(raw)} bytes sha256 {hashlib.sha256(raw).hexdigest()}")


def request_of(recorded: dict[str, Any]) -> bytes:
    """The bytes of a recorded request."""
    raw: bytes = recorded["request"].encode("latin-1")
    if "request_body" in recorded:
        character, count = recorded["request_body"]
        raw += character.encode() * count
    if "request_chunk" in recorded:
        character, count = recorded["request_chunk"]
        raw += b"%x\r\n%b\r\n0\r\n\r\n" % (count, character.encode() * count)
    return raw


def ask(server: Server, raw: bytes) -> list[Answer]:
    """Send `raw` on a connection of its own, read until the server closes it."""
    with server.connect() as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        received = bytearray()
        while data := connection.recv(1 << 20):
            received += data
    answers, rest = [], bytes(received)
    while rest:
        answer, rest = read_answer(rest, raw.startswith(b"HEAD"))
        answers.append(answer)
    return answers


def read_answer(received: bytes, to_head: bool) -> tuple[Answer, bytes]:
    """The first answer in `received`, and what stands behind it. None is chunked, so small they are."""
    interim = ""
    head, _, rest = received.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 1"):
        interim = head.decode("latin-1").split("\r\n")[0]
        head, _, rest = rest.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    headers = {field.partition(":")[0].lower(): field.partition(":")[2].strip() for field in fields}
    length = 0 if to_head else int(headers["content-length"])
    assert len(rest) >= length
    body = DECODERS[headers.get("content-encoding", "")](rest[:length])
    return Answer(interim, int(line.split()[1]), headers, body), rest[length:]


def words(text: str) -> set[str]:
    """A list separated by commas, in any case and order."""
    return {word.strip().lower() for word in text.split(",")}


def check_body(answer: Answer, expected: dict[str, Any]) -> None:
    if "body_sha256" in expected:
        assert len(answer.body) == expected["body_bytes"]
        assert hashlib.sha256(answer.body).hexdigest() == expected["body_sha256"]
        return
    body = expected.get("body", expected.get("body_decoded")).encode("latin-1")
    if answer.headers.get("content-type") == "application/json" and body:
        assert sorted(json.loads(answer.body)) == sorted(json.loads(body))
    else:
        assert answer.body == body


def check_headers(answer: Answer, expected: dict[str, str]) -> None:
    for name, value in expected.items():
        if name == "content-type":
            assert answer.headers.get(name) == value
        elif name == "allow":
            assert words(answer.headers.get(name, "")) == words(value)
        elif name.startswith("access-control-"):
            assert words(answer.headers.get(name, "")) >= words(value)
    if "content-encoding" in answer.headers:
        assert "accept-encoding" in words(answer.headers["vary"])


def check(answer: Answer, expected: dict[str, Any]) -> None:
    assert answer.status == expected["status"]
    check_body(answer, expected)
    check_headers(answer, expected.get("headers", {}))


def check_status(answer: Answer, expected: dict[str, Any]) -> None:
    assert answer.status == expected["status"]


def check_no_host(answer: Answer, expected: dict[str, Any]) -> None:
    assert answer.status == 400


def check_wal_head(answer: Answer, expected: dict[str, Any]) -> None:
    assert (answer.status, answer.body) == (405, b"")
    assert answer.headers["allow"] == "GET"


def check_root(answer: Answer, expected: dict[str, Any]) -> None:
    assert answer.status == 200 and answer.body.startswith(b"kvserver")


DEVIATIONS: dict[str, Callable[[Answer, dict[str, Any]], None]] = {
    "400 as well; body and CORS header are ours": check_status,
    "400 as well; body is ours": check_status,
    "413; the text may be the one by length": check_status,
    "allow-methods and allow-headers are supersets": check,
    "200 with what this is, and where to go": check_root,
    "400 (RFC 9112, 3.2)": check_no_host,
    "405 with Allow; the text may be empty": check_wal_head,
}


@pytest.fixture(scope="module")
def feed(server: Server) -> Iterator[ClientConnection]:
    """A client of `/wal` from the start."""
    with connect(server.feed_url, max_size=None, proxy=None, compression=None) as connection:
        yield connection


def next_line(feed: ClientConnection) -> Line:
    """The feed's next line that is no heartbeat (they come in their own time)."""
    while True:
        text = feed.recv(timeout=15)
        assert isinstance(text, str)
        if not text.startswith("Heartbeat from "):
            return Line.of(text)


def test_every_deviation_is_known() -> None:
    assert {recorded.get("deviation") for recorded in RECORDED} - {None} == set(DEVIATIONS)
    assert len(RECORDED) == 105


# One test for each request, in the record's order: what a later one reads an earlier one wrote. A line too many shows
# as the first line of a later request.
@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded["name"].replace(" ", "-"))
def test_answer(server: Server, feed: ClientConnection, recorded: dict[str, Any]) -> None:
    answers = ask(server, request_of(recorded))
    expected = recorded.get("responses") or [recorded["response"]]
    for answer, response in zip(answers, expected, strict=True):
        DEVIATIONS.get(recorded.get("deviation"), check)(answer, response)
        assert answer.headers["access-control-allow-origin"] == "*"
    assert answers[0].interim == recorded.get("interim", "")
    shown = recorded["feed"] if answers[0].status == expected[0]["status"] else []
    assert [next_line(feed).text for _ in shown] == shown


def test_no_line_is_left_over(server: Server, feed: ClientConnection) -> None:
    ask(server, b"GET /the%20end HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert next_line(feed).text == "Read { key: the end}"
