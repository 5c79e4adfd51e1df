"""Pieces of HTML: text never becomes markup."""

from __future__ import annotations

from kvserver.description.html import elements


def test_text_cannot_become_elements() -> None:
    assert "<b>" not in elements.render_text("<b> `<b>`\n\n- <b>") + elements.render_block(
        "<b>", '"<b>'
    ) + elements.link('"', "")
    assert elements.describe_schema({"enum": ["<b>"]}) == "<code>&lt;b&gt;</code>"
