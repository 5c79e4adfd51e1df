"""The revision that a cursor is behind, which tells a mirror whether it has one's own write."""

from __future__ import annotations

import pytest

from kvserver.client.live.mirror import _revision_in


@pytest.mark.parametrize(("cursor", "revision"), [("e.57", 57), ("e.57.YQ.0123abcd", 0), ("e.x", 0), ("", 0), ("e", 0)])
def test_the_revision_in_a_cursor(cursor: str, revision: int) -> None:
    assert _revision_in(cursor) == revision
