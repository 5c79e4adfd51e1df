"""Scans of MessagePack in steps, and its translation to JSON."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kvserver.api.scan import json_scan, msgpack_scan
from kvserver.api.scan.steps import run_at_once
from shards.wire.errors import BadRequest
from tests.unit.kvserver.api.scan.test_duplicate_names import DOCUMENTS, has_double, in_json, in_msgpack


@pytest.mark.parametrize("size", [5, 70, 700])
@given(document=DOCUMENTS, wide=st.booleans())
def test_messagepack_is_written_as_json(document: Any, wide: bool, size: int) -> None:
    assume("Infinity" not in in_json(document, False, ""))
    one = in_msgpack(document, wide)
    data = b"\xdc" + (size + 4).to_bytes(2, "big") + one * 3 + b"\0" * size + one
    assert run_at_once(msgpack_scan.end_of(data + b"\0", 0)) == len(data)
    if has_double(document):
        with pytest.raises(BadRequest, match="comes twice"):
            run_at_once(msgpack_scan.to_json(data, 0, 1 << 20))
    else:
        whole = msgspec.json.encode(msgspec.msgpack.decode(data))
        assert run_at_once(msgpack_scan.to_json(data, 0, 1 << 20)) == whole
        assert len(run_at_once(msgpack_scan.to_json(data, 0, 3))) > 3


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"\xca\x7f\xc0\0\0", "NaN"),
        (b"\xcb\x7f\xf0" + bytes(6), "infinity"),
        (b"\xc4\1a", "bytes"),
        (b"\xd4\5a", "extension"),
        (b"\x81\1\1", "text"),
    ],
)
def test_what_json_has_no_form_for_is_refused(value: bytes, why: str, count: int) -> None:
    data = b"\xdc" + count.to_bytes(2, "big") + value * count
    with pytest.raises(BadRequest, match=why):
        run_at_once(msgpack_scan.to_json(data, 0, 1 << 20))


@pytest.mark.parametrize("levels", [msgpack_scan.MAX_DEPTH, msgpack_scan.MAX_DEPTH + 1])
def test_messagepack_of_large_documents_has_512_levels(levels: int) -> None:
    data = b"\x91" * (levels - 1) + b"\x90"
    if levels == msgpack_scan.MAX_DEPTH:
        assert run_at_once(msgpack_scan.to_json(data, 0, 1 << 20)) == b"[" * levels + b"]" * levels
    else:
        with pytest.raises(json_scan.BrokenText):
            run_at_once(msgpack_scan.to_json(data, 0, 1 << 20))


def test_no_more_is_written_of_messagepack_than_tells_that_it_is_too_large() -> None:
    data = b"\xdd" + (100_000).to_bytes(4, "big") + b"\0" * 100_000
    for most in (10, 1_000, 100_000):
        assert most < len(run_at_once(msgpack_scan.to_json(data, 0, most))) < most + 1_000
