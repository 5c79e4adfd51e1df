"""Frames between the shard and the process that carries the order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.order import link
from shards.order.link import LinkError, Splitter, encode_frame
from shards.order.order import NotDurable, OrderError, OrderLost, OrderTrimmed, OrderUnreachable

TO_CHILD: list[link.ToChild] = [
    link.Open(3, None, 0),
    link.Open(3, "KV", 17),
    link.Propose(1, b"payload"),
    link.Tell(b"all"),
    link.Ask("b", b"one"),
    link.Trim(9),
    link.Hint(9),
]
FROM_CHILD: list[link.FromChild] = [
    link.Opened("KV", 17, 1, 9),
    link.Failed("lost", "why"),
    link.Took(1, 2, b"payload"),
    link.NotTaken(1),
    link.Told("b", b"all"),
    link.Reached(1, 9),
]


@given(st.lists(st.integers(1, 40), max_size=60))
def test_frames_are_read_back_however_they_are_cut(cuts: list[int]) -> None:
    data = b"".join(map(encode_frame, TO_CHILD))
    splitter, read, start = Splitter(), list[link.ToChild](), 0
    for cut in [*cuts, len(data)]:
        read += map(link.decode_to_child, splitter.feed(data[start : start + cut]))
        start += cut
    assert read == TO_CHILD


@pytest.mark.parametrize("frame", FROM_CHILD, ids=lambda frame: type(frame).__name__)
def test_frames_from_the_child_are_read_back(frame: link.FromChild) -> None:
    (body,) = Splitter().feed(encode_frame(frame))
    assert link.decode_from_child(body) == frame


@pytest.mark.parametrize(
    "error",
    [OrderTrimmed(3, 9), OrderLost("lost"), NotDurable("lax"), OrderUnreachable("away"), OrderError("other")],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_the_link(error: OrderError) -> None:
    rebuilt = link.Failed.of(error).error(3)
    assert (type(rebuilt), str(rebuilt)) == (type(error), str(error))


def test_a_frame_may_have_its_size_and_no_more() -> None:
    length = link.MOST_FRAME_BYTES.to_bytes(4, "little")
    assert Splitter().feed(length) == []
    with pytest.raises(LinkError, match="at most"):
        Splitter().feed((link.MOST_FRAME_BYTES + 1).to_bytes(4, "little"))


@pytest.mark.parametrize("body", [b"", b"\x91\x63", b"\xc1", b"\x92\x03\xa1\xff"])
def test_frames_of_another_version_are_errors(body: bytes) -> None:
    with pytest.raises(LinkError):
        link.decode_to_child(body)
    with pytest.raises(LinkError):
        link.decode_from_child(body)
