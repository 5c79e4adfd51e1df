"""Answers of batches that are written in pieces are what the encoder writes in one go."""

from __future__ import annotations

import tracemalloc
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver import batchanswers, batches
from kvserver.batchanswers import Late, Result
from kvserver.batches import JSON, MESSAGE_PACK, Format

MIB = 1 << 20
FORMATS = pytest.mark.parametrize("format", [JSON, MESSAGE_PACK], ids=["JSON", "MessagePack"])

TEXTS = st.text(st.sampled_from('ab"\\/\0\x1f\n\x7f\x80éß€\u2028\ufffd😀'), max_size=60).map(str.encode)
VALUES = TEXTS | st.binary(max_size=60) | st.builds(bytes.__add__, TEXTS, st.binary(max_size=2))
HEADS = st.fixed_dictionaries({"status": st.just(200), "content_type": st.sampled_from(["a/b", 'a/b;c="é"'])})
ERRORS = st.fixed_dictionaries({"status": st.just(404), "detail": st.text(max_size=5)})
RESULTS = st.lists(ERRORS | st.builds(Late, HEADS, VALUES), max_size=40)


def at_once(format: Format, results: list[Result]) -> bytes:
    """The answer, written by the plain encoder."""
    return format.encode({"results": [shown(format, each) if isinstance(each, Late) else each for each in results]})


def shown(format: Format, late: Late) -> dict[str, Any]:
    if format is MESSAGE_PACK:
        return {**late.result, "value": late.value}
    try:
        return {**late.result, "value": late.value.decode()}
    except UnicodeDecodeError:
        return {**late.result, "value_base64": msgspec.json.decode(msgspec.json.encode(late.value))}


@FORMATS
@given(RESULTS, st.sampled_from([3, 6, 30]), st.sampled_from([0, 1, 20, 1000]), st.integers(1, 50), st.integers(1, 20))
def test_pieces_are_together_what_is_written_at_once(
    format: Format, results: list[Result], window: int, single: int, portion: int, count: int
) -> None:
    with pytest.MonkeyPatch.context() as context:
        context.setattr(batchanswers, "_WINDOW", window)
        context.setattr(batchanswers, "_SINGLE", single)
        context.setattr(batchanswers, "_PORTION_BYTES", portion)
        context.setattr(batchanswers, "_PORTION", count)
        assert b"".join(format.answer.pieces(results)) == at_once(format, results)


@FORMATS
@pytest.mark.parametrize("count", [0, 1, 15, 16, batches.BATCH_OPS])
def test_so_many_results_are_written_as_at_once(format: Format, count: int) -> None:
    results: list[Result] = [{"status": 204, "revision": number} for number in range(count)]
    assert b"".join(format.answer.pieces(results)) == at_once(format, results)


@FORMATS
@pytest.mark.parametrize("size", [0, 1, 255, 256, 65535, 65536, 5_000_000])
@pytest.mark.parametrize("value", [b"a", b"\0", b"\xff", "€".encode()], ids=["text", "control", "binary", "wide"])
def test_values_of_all_sizes_are_written_as_at_once(
    format: Format, size: int, value: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batchanswers, "_SINGLE", 0)
    results: list[Result] = [Late({"status": 200}, (value * size)[:size])]
    assert b"".join(format.answer.pieces(results)) == at_once(format, results)


def large_values() -> Iterator[Any]:
    yield pytest.param(b"a" * MIB, id="text")
    yield pytest.param(bytes(MIB), id="control characters")
    yield pytest.param("😀é".encode() * (MIB // 6), id="wide characters")
    yield pytest.param(b"\xff" * MIB, id="binary")
    yield pytest.param(b"a" * (MIB - 1) + b"\xff", id="binary at its end")
    yield pytest.param("é".encode() * (MIB // 2) + b"\xc3", id="broken off in a character")


@FORMATS
@pytest.mark.parametrize("value", [*large_values()])
def test_a_large_value_is_written_in_many_small_steps(format: Format, value: bytes) -> None:
    pieces = list(format.answer.pieces([Late({"status": 200}, value)]))
    assert len(pieces) >= 20
    assert max(map(len, pieces)) <= 6 * (48 << 10)
    (result,) = (msgspec.json if format is JSON else msgspec.msgpack).decode(b"".join(pieces))["results"]
    if "value_base64" in result:
        assert b64decode(result["value_base64"]) == value
    else:
        assert result["value"] == (value.decode() if format is JSON else value)


@FORMATS
def test_many_small_values_are_written_in_many_small_steps(format: Format) -> None:
    results: list[Result] = [Late({"status": 200}, bytes(3000)) for _ in range(1000)]
    pieces = list(format.answer.pieces(results))
    assert len(pieces) >= 40
    assert max(map(len, pieces)) <= 1 << 19


@FORMATS
@pytest.mark.parametrize("value", [b"a", b"\0", b"\xff", "😀".encode()], ids=["text", "control", "binary", "wide"])
def test_an_answer_takes_little_memory_beside_its_values(format: Format, value: bytes) -> None:
    results: list[Result] = [Late({"status": 200}, value * (size // len(value))) for size in [4 * MIB] + [10_000] * 400]
    tracemalloc.start()
    total = sum(map(len, format.answer.pieces(results)))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total > 7 * MIB
    assert most < 3 * MIB
