"""Pages of lists: items as JSON, and targets of further pages that mean what the list meant."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.api import query
from kvserver.api.listing import ListRange, Walk
from kvserver.rest.many import LIST
from kvserver.rest.pages import describe_item, encode_page, next_target
from shards.maps.layout import Item

NAMES = st.text(max_size=9).map(str.encode)
GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "prefix": NAMES,
        "after": NAMES,
        "before": NAMES,
        "limit": st.integers(1, 1000),
        "reverse": st.booleans(),
        "values": st.booleans(),
        "delimiter": st.lists(NAMES, min_size=1, max_size=3),
    },
)


@given(GIVEN, NAMES)
def test_the_next_target_asks_for_the_same_list_after_its_last_row(parameters: dict[str, Any], last: bytes) -> None:
    path, _, text = next_target(parameters, last).partition("?")
    assert path == "/v1/kv"
    place = "before" if parameters.get("reverse") else "after"
    assert query.parse(text.encode("ascii"), LIST) == {**parameters, place: last}


def test_an_item_has_its_times_and_its_type() -> None:
    item = Item(7, 5, 0, 1_000, 61_001, "", b"", 3)
    assert msgspec.json.decode(msgspec.json.encode(describe_item(b"k", item, values=False))) == {
        "key": "k",
        "revision": 7,
        "size": 3,
        "content_type": "application/octet-stream",
        "created": "1970-01-01T00:00:01.000Z",
        "modified": "1970-01-01T00:01:01.001Z",
        "expires": None,
    }


@pytest.mark.parametrize(
    ("value", "shown"), [("é".encode(), {"value": "é"}), (b"\xff", {"value_base64": b64encode(b"\xff").decode()})]
)
def test_a_value_is_text_or_base64(value: bytes, shown: dict[str, str]) -> None:
    item = Item(7, 5, 9_000, 1, 1, "text/plain", value, len(value))
    document = msgspec.json.decode(msgspec.json.encode(describe_item(b"k", item, values=True)))
    assert document["expires"] == "1970-01-01T00:00:09.000Z"
    assert document["created"] == document["modified"] == "1970-01-01T00:00:00.001Z"
    assert {name: text for name, text in document.items() if name.startswith("value")} == shown


def test_the_last_page_has_no_next() -> None:
    walk: Walk[Item] = Walk(ListRange(), 1, 1)
    walk.advance([], 1)
    assert encode_page(walk, {}) == ([], b'{"items":[],"prefixes":[],"next":null}')
