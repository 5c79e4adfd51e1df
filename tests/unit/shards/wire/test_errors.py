"""What errors say is bounded, whoever raises them."""

from __future__ import annotations

import pytest

from shards.wire.errors import DETAIL_CHARACTERS, ERRORS, KVError, from_code


@pytest.mark.parametrize("kind", [KVError, ERRORS["bad_request"], ERRORS["precondition_failed"]])
def test_a_detail_is_cut_where_it_is_too_long(kind: type[KVError]) -> None:
    whole = "é" * DETAIL_CHARACTERS
    for error in (kind(whole), from_code(kind.code, whole)):
        assert error.detail == str(error) == whole
    for error in (kind(whole + "x"), from_code(kind.code, whole * 1000)):
        assert error.detail == str(error) == whole[:-1] + "…"
