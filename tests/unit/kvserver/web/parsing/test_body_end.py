"""Bodies are cut so that their parser never sees what stands behind them, wherever the network cut them."""

from __future__ import annotations

from itertools import pairwise

import httptools
from hypothesis import given
from hypothesis import strategies as st

from kvserver.web.parsing.body_end import BodyCutter

HEAD = b"PUT /k HTTP/1.1\r\nHost: a\r\n%b\r\n"
BEHIND = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n0\r\n\r\n"

# What a body is made of: data full of line ends and last chunks is the worst case.
parts = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"a", b"0", b"x" * 50]), max_size=6)
contents = parts.map(b"".join)


class Parsed:
    """httptools' callbacks."""

    def __init__(self) -> None:
        self.body, self.complete = b"", 0

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete += 1


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` as it comes from the network."""
    places = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[start:end] for start, end in pairwise(places) if start < end]


def read(head: bytes, cutter: BodyCutter, arriving: list[bytes]) -> tuple[Parsed, bytes]:
    """What the parser made of the first request, and what was left for the next one."""
    parsed = Parsed()
    parser = httptools.HttpRequestParser(parsed)
    parser.feed_data(head)
    rest = b""
    for data in arriving:
        at = 0
        while at < len(data) and not parsed.complete:
            end = cutter.find_end(data, at)
            assert end > at
            parser.feed_data(data[at:end])
            at = end
        rest += data[at:]
    return parsed, rest


@given(st.lists(contents, max_size=5), contents, st.lists(st.integers(0, 10_000), max_size=8), st.booleans())
def test_of_a_chunked_body_nothing_behind_its_end_is_parsed(
    chunks: list[bytes], extra: bytes, cuts: list[int], trailer: bool
) -> None:
    body = b"".join(b"%x;x=y\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks if chunk)
    body += b"0\r\n" + (b"X: y\r\n" if trailer else b"") + b"\r\n"
    arriving = pieces(body + BEHIND + extra, cuts)
    parsed, rest = read(HEAD % b"Transfer-Encoding: chunked\r\n", BodyCutter(None), arriving)
    assert (parsed.complete, parsed.body) == (1, b"".join(chunks))
    assert rest == BEHIND + extra


@given(contents.filter(bool), st.lists(st.integers(0, 10_000), max_size=8))
def test_of_a_body_with_a_length_nothing_behind_its_end_is_parsed(body: bytes, cuts: list[int]) -> None:
    head = HEAD % (b"Content-Length: %d\r\n" % len(body))
    parsed, rest = read(head, BodyCutter(len(body)), pieces(body + BEHIND, cuts))
    assert (parsed.complete, parsed.body, rest) == (1, body, BEHIND)
