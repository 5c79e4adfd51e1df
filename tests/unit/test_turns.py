"""Work in steps lets others have their turn, and gives what it would in one go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver import turns
from kvserver.turns import joined_in_turns


async def parts_of(pieces: Iterator[bytes], size: int) -> list[bytes]:
    return [part async for part in joined_in_turns(pieces, size)]


@given(st.lists(st.binary(max_size=9)), st.integers(1, 30))
def test_parts_are_together_what_the_pieces_are(pieces: list[bytes], size: int) -> None:
    parts = asyncio.run(parts_of(iter(pieces), size))
    assert b"".join(parts) == b"".join(pieces)
    assert all(parts)
    assert all(size <= len(part) < size + 9 for part in parts[:-1])


def test_others_get_their_turn_while_a_part_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SLICE_S", 0.0)
    begun = 0

    def pieces() -> Iterator[bytes]:
        nonlocal begun
        for begun in range(1, 101):
            yield b"" if begun % 2 else b"x"

    async def main() -> set[int]:
        seen: set[int] = set()
        making = asyncio.create_task(parts_of(pieces(), 1000))
        while not making.done():
            seen.add(begun)
            await asyncio.sleep(0)
        assert making.result() == [b"x" * 50]
        return seen

    assert len(asyncio.run(main())) >= 50


def test_who_waits_for_its_client_has_no_share_of_the_time() -> None:
    async def main() -> None:
        parts = joined_in_turns(iter([b"a", b"b"]), 1)
        assert await anext(parts) == b"a"
        assert not turns._in_progress
        await parts.aclose()
        failing = joined_in_turns((1 // 0 for _ in "x"), 1)  # type: ignore[misc]
        with pytest.raises(ZeroDivisionError):
            await anext(failing)
        assert not turns._in_progress

    asyncio.run(main())
