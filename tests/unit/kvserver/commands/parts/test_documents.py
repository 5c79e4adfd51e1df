"""What `--json` prints."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kvserver.client.model import Entry, Item, Meta
from kvserver.commands.parts.documents import entry_document, item_document, meta_document, value_member

WHEN = datetime(2026, 11, 30, 1, 2, 3, 45_000, UTC)


@pytest.mark.parametrize(
    ("value", "member"), [(b"", {"value": ""}), ("é\0".encode(), {"value": "é\0"}), (b"\xff", {"value_base64": "/w=="})]
)
def test_a_value_is_text_if_it_can_be(value: bytes, member: dict[str, str]) -> None:
    assert value_member(value) == member


def test_entries_and_items_are_as_the_api_has_them() -> None:
    common = {
        "key": "k",
        "revision": 5,
        "size": 1,
        "content_type": "text/plain",
        "modified": "2026-11-30T01:02:03.045Z",
        "expires": None,
    }
    assert entry_document(Entry("k", b"v", 5, "text/plain", None, WHEN)) == common | {"value": "v"}
    assert meta_document(Meta("k", 1, 5, "text/plain", None, WHEN)) == common
    item = Item("k", 5, 1, "text/plain", created=WHEN, modified=WHEN)
    assert item_document(item) == common | {"created": common["modified"]}
    assert item_document(Item("k", 5, 1, "text/plain", value=b"v"))["value"] == "v"
