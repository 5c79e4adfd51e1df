"""Work in steps between the turns of an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.api.scan.steps import Steps
from kvserver.rest import turns
from kvserver.rest.turns import join_in_turns, run_in_turns


def count(steps: int, done: list[int]) -> Steps[int]:
    for step in range(steps):
        done.append(step)
        yield
    return len(done)


def test_others_get_their_turn_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SLICE_S", 0.0)

    async def main() -> None:
        done: list[int] = []
        seen: list[int] = []
        work = asyncio.create_task(run_in_turns(count(20, done)))
        while not work.done():
            seen.append(len(done))
            await asyncio.sleep(0)
        assert await work == 20
        assert len(set(seen)) >= 10, "steps and this task alternate"

    asyncio.run(main())


def test_short_work_takes_no_turn() -> None:
    """A slice has room for it, so it is done before its caller waits."""

    async def main() -> None:
        others: list[str] = []
        asyncio.get_running_loop().call_soon(others.append, "ran")
        assert await run_in_turns(count(0, [])) == 0
        assert not others

    asyncio.run(main())


def test_works_share_the_slice_and_give_it_back() -> None:
    async def main() -> None:
        a: list[int] = []
        b: list[int] = []
        assert list(await asyncio.gather(run_in_turns(count(5, a)), run_in_turns(count(7, b)))) == [5, 7]
        assert turns._in_progress == 0

    asyncio.run(main())


def test_a_cancelled_work_is_closed_and_counted_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SLICE_S", 0.0)
    closed: list[bool] = []

    def endless() -> Steps[None]:
        try:
            while True:
                yield
        finally:
            closed.append(True)

    async def main() -> None:
        work = asyncio.create_task(run_in_turns(endless()))
        await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert closed == [True]
        assert turns._in_progress == 0

    asyncio.run(main())


def test_what_a_step_raises_is_raised() -> None:
    def fail() -> Steps[None]:
        yield
        raise KeyError("second step")

    with pytest.raises(KeyError, match="second step"):
        asyncio.run(run_in_turns(fail()))
    assert turns._in_progress == 0


async def parts_of(pieces: Iterator[bytes], size: int) -> list[bytes]:
    return [part async for part in join_in_turns(pieces, size)]


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
        parts = join_in_turns(iter([b"a", b"b"]), 1)
        assert await anext(parts) == b"a"
        assert not turns._in_progress
        await parts.aclose()
        failing = join_in_turns((1 // 0 for _ in "x"), 1)  # type: ignore[misc]
        with pytest.raises(ZeroDivisionError):
            await anext(failing)
        assert not turns._in_progress

    asyncio.run(main())
