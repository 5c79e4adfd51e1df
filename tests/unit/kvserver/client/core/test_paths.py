"""A key's path survives what URL parsers do to paths, and means the key again."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from kvserver.client.core.paths import key_path, with_query
from kvserver.client.errors import BadKey

GOLDEN = json.loads((Path(__file__).parents[4] / "client" / "golden" / "keys.json").read_text())
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30) | st.text("./%?#a", min_size=1)


@pytest.mark.parametrize("case", GOLDEN, ids=[case["name"] for case in GOLDEN])
def test_golden_keys(case: dict[str, str]) -> None:
    assert key_path(case["key"]) == case["path"]


@given(KEYS)
@example(".")
@example("a/./b")
@example("a//")
def test_a_path_means_its_key_whatever_parsers_do(key: str) -> None:
    path = key_path(key)
    assert path.isascii() and path.isprintable() and path.startswith("/v1/kv/")
    assert unquote_to_bytes(path.removeprefix("/v1/kv/")).decode() == key
    assert not {"", ".", ".."} & set(path.split("/")[1:]), "parsers would remove these segments"
    assert URL("http://kv.example" + path, encoded=True).raw_path == path


@pytest.mark.parametrize("key", ["", "\ud800", "a/\udfff"])
def test_what_is_no_key(key: str) -> None:
    with pytest.raises(BadKey):
        key_path(key)


def test_a_query_leaves_out_what_is_none() -> None:
    assert with_query("/v1/kv", [("a", None), ("b", "1 &="), ("c", "ü/")]) == "/v1/kv?b=1%20%26%3D&c=%C3%BC%2F"
    assert with_query("/v1/kv", [("a", None)]) == "/v1/kv"
    with pytest.raises(BadKey):
        with_query("/v1/kv", [("prefix", "\ud800")])
