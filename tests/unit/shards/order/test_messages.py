"""Messages as bytes: what is read back, what is refused, and the limits at their edges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.order import messages
from shards.order.messages import (
    GROUP_BYTES,
    LEVEL,
    MESSAGE_BYTES,
    MOST_PARTS,
    Applied,
    Ask,
    Batch,
    Begin,
    Content,
    Envelope,
    Grant,
    In,
    Out,
    Part,
    Tidings,
    UnknownLevel,
    Void,
    contents_of,
    decode_message,
    decode_tidings,
    encode_message,
    encode_tidings,
    init_of,
)

NUMBERS = st.integers(0, (1 << 63) - 1)
NAMES = st.from_regex(messages.NODE_PATTERN, fullmatch=True)
CONTENTS: st.SearchStrategy[Content] = st.one_of(
    st.builds(Begin, NUMBERS),
    st.builds(Batch, st.binary()),
    st.builds(Part, st.binary(), st.booleans()),
    st.just(In()),
    st.builds(Out, NAMES, NUMBERS),
    st.just(Void()),
    st.builds(
        init_of,
        st.text(max_size=200),
        st.text(max_size=200),
        NUMBERS,
        st.lists(NAMES, min_size=1, max_size=5, unique=True),
        st.just({"value": 7}),
    ),
)


@given(st.integers(1, LEVEL), NAMES, NUMBERS, NUMBERS, CONTENTS)
def test_a_message_is_read_back(level: int, node: str, session: int, counter: int, content: Content) -> None:
    read = decode_message(encode_message(level, node, session, counter, content))
    assert read == (level, Envelope(node, session, counter, content))


@given(st.binary(max_size=64))
def test_what_cannot_be_read_has_no_effect(data: bytes) -> None:
    payload = bytes((LEVEL,)) + data
    read = decode_message(payload)
    assert read.envelope is None or encode_message(LEVEL, *_fields(read.envelope)) != b""


def _fields(envelope: Envelope) -> tuple[str, int, int, Content]:
    return envelope.node, envelope.session, envelope.counter, envelope.content


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x01", b"\x01\x94", b"\x01\xc0"])
def test_a_torn_message_is_no_message(payload: bytes) -> None:
    assert decode_message(payload).envelope is None


def test_a_message_with_a_field_too_many_is_no_message() -> None:
    payload = encode_message(1, "a", 1, 1, In())
    assert decode_message(payload.replace(b"\x91\x05", b"\x92\x05\x00")).envelope is None


def test_a_level_that_is_not_known_is_an_error_whatever_follows() -> None:
    with pytest.raises(UnknownLevel, match=f"level {LEVEL + 1}.*install the version") as unknown:
        decode_message(bytes((LEVEL + 1,)) + b"whatever")
    assert unknown.value.level == LEVEL + 1


@pytest.mark.parametrize("name", ["", "A", "a_b", "a.b", "ä", "a" * 33, "a\n"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        init_of("store", "epoch", 1, [name], {})
    assert decode_message(encode_message(1, name, 1, 1, In())).envelope is None


@pytest.mark.parametrize("nodes", [[], ["a", "a"], list("abcdef")])
def test_nodes_are_one_to_five_different_ones(nodes: list[str]) -> None:
    with pytest.raises(ValueError):
        init_of("store", "epoch", 1, nodes, {})


def test_nodes_are_put_in_order() -> None:
    assert init_of("store", "epoch", 1, ["c", "a" * 32, "b-1"], {}).nodes == ("a" * 32, "b-1", "c")


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (0, [0]),
        (MESSAGE_BYTES, [MESSAGE_BYTES]),
        (MESSAGE_BYTES + 1, [MESSAGE_BYTES, 1]),
        (2 * MESSAGE_BYTES, [MESSAGE_BYTES] * 2),
        (GROUP_BYTES, [MESSAGE_BYTES] * MOST_PARTS),
    ],
)
def test_operations_are_cut_into_parts(size: int, sizes: list[int]) -> None:
    contents = contents_of(bytes(size))
    if len(sizes) == 1:
        assert contents == [Batch(bytes(size))]
    else:
        pieces = [(len(content.piece), content.last) for content in contents if isinstance(content, Part)]
        assert pieces == [(size, index == len(sizes) - 1) for index, size in enumerate(sizes)]


def test_a_group_that_is_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match=str(GROUP_BYTES)):
        contents_of(bytes(GROUP_BYTES + 1))


@pytest.mark.parametrize(
    "tidings",
    [Ask(3, 4, 1.5, 2.5, 1_700_000_000_000, True, 1, 64, b"12345678"), Grant("b", 3, 1.5, 2.5), Applied(9)],
    ids=lambda tidings: type(tidings).__name__,
)
def test_tidings_are_read_back(tidings: Tidings) -> None:
    assert decode_tidings(encode_tidings(tidings)) == tidings


@given(st.binary(max_size=40))
def test_tidings_that_cannot_be_read_are_none(data: bytes) -> None:
    read = decode_tidings(data)
    assert read is None or decode_tidings(encode_tidings(read)) == read
