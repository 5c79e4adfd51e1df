"""Cuts that were disclosed, as other processes of the run know them."""

from __future__ import annotations

from kvserver.access.cuts import Cuts
from tests.api.kvserver.access.boards import Clock
from tests.api.kvserver.access.rights import (
    TOKENS,
)


def test_a_cut_is_known_to_all_workers_of_a_run(board: Clock) -> None:
    one, other = Cuts(board), Cuts(board)
    grants = TOKENS[-1].grants
    assert not other.was_disclosed(grants, b"a/", 7)
    one.disclose(grants, b"a/", 7)
    assert other.was_disclosed(grants, b"a/", 7)
    assert not any(
        other.was_disclosed(*each) for each in ((grants, b"a/", 8), (grants, b"a", 7), (TOKENS[0].grants, b"a/", 7))
    )
