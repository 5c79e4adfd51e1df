"""The tail of `/wal`, and clients in the middle of large frames."""

from __future__ import annotations

from typing import Any

from kvserver.gateway.wal.tail import IDLE_S, Chunk, LargeFrameCache, PlacedFrame, Position, Tail, WalCursor

BEGIN = Position(1000, 500)


def take_piece(shown: Tail, cursor: WalCursor, held: LargeFrameCache, now: float) -> bytes:
    """As `WalReader` does."""
    data = cursor.give(cursor.large) if cursor.large is not None else shown.next(cursor)
    held.note(cursor, now)
    return bytes(data or b"")


def test_a_tail_keeps_its_last_chunk_however_large() -> None:
    """A value larger than the tail is still shared by all clients."""
    shown = Tail(BEGIN, most_bytes=10)
    cursors: list[Any] = [shown.join(BEGIN) for _ in range(2)]
    shown.append(Position(2000, 501), [PlacedFrame(1002, b"x" * 1000)])
    taken = [shown.next(cursor) for cursor in cursors]
    assert taken[0] is taken[1] is not None
    assert shown.next(cursors[0]) is None


def test_frames_that_clients_are_within_take_bounded_memory() -> None:
    """Who takes something keeps its frame; who took nothing for long looks for it again, and finds the rest."""
    shown, held = Tail(BEGIN), LargeFrameCache(most_idle=700_000, most=1_500_000)
    cursors, large = [], []
    for revision in range(501, 506):
        large.append(PlacedFrame(2 * revision, b"%d" % revision + b"x" * 600_000))
        cursors += [shown.join(shown.position) for _ in range(2)]
        shown.append(Position(1000 * revision, revision), large[-1:])
    got = [bytearray(take_piece(shown, cursor, held, 0.0)) for cursor in cursors]
    is_held = [cursor.large is not None for cursor in cursors]
    assert is_held == [False] * 6 + [True] * 4, "the frame of two clients counts once; two frames are all that may be"
    got[6] += take_piece(shown, cursors[6], held, IDLE_S)
    is_held = [cursor.large is not None for cursor in cursors]
    assert is_held == [False] * 6 + [True, False, False, False], "who takes something keeps its frame"
    for cursor, taken in zip(cursors, got, strict=True):
        while cursor.begun:
            taken += take_piece(shown, cursor, held, 2 * IDLE_S)
    assert got == [large[index // 2].data for index in range(10)]


def test_within_a_frame_nothing_else_is_given() -> None:
    """Not even what the tail has before it, which a client that read the log did not have."""
    shown, cursor = Tail(BEGIN), WalCursor(BEGIN, 0)
    large = PlacedFrame(1006, b"x" * 100_000)
    got = bytes(cursor.give(Chunk(Position(3000, 503), [large])))
    cursor.large = None
    shown.append(Position(2000, 502), [PlacedFrame(1001, b"late")])
    shown.append(Position(3000, 503), [large])
    while (data := shown.next(cursor)) is not None:
        got += data
    assert got == large.data
