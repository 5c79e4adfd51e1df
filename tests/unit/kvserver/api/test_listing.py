"""Lists over several shards against a sorted list: pages, both orders, folding, bounds, expired keys, pauses."""

from __future__ import annotations

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from kvserver.access.grants import Grants
from kvserver.api.listing import ListRange, Walk, end_of_prefix
from shards.maps.layout import Item

KEYS = st.text(alphabet="a/b:\U0010ffff", min_size=1, max_size=6).map(str.encode)
BOUNDS = st.none() | st.text(alphabet="a/b:\U0010ffff", max_size=6).map(str.encode)

DELIMITERS = [b"/", b"/", b":", b"::", b"ab", b"b/", b"a:/", b"\xf4\x8f\xbf\xbf"]
"""Some overlap, and some are inside others."""

Shard = dict[bytes, int | None]
"""Key to size of its value; None: expired."""


class ListCursor:
    """A shard's cursor over a sorted list."""

    def __init__(self, shard: Shard) -> None:
        self.keys, self.shard, self.at, self.moves = sorted(shard), shard, 0, 0

    def seek(self, key: bytes) -> bytes | None:
        return self._go(bisect_left(self.keys, key))

    def seek_below(self, key: bytes | None) -> bytes | None:
        return self._go((len(self.keys) if key is None else bisect_left(self.keys, key)) - 1)

    def next(self) -> bytes | None:
        return self._go(self.at + 1)

    def prev(self) -> bytes | None:
        return self._go(self.at - 1)

    def size(self) -> int | None:
        return self.shard[self.keys[self.at]]

    def item(self) -> Item:
        return item(self.shard[self.keys[self.at]] or 0)

    def _go(self, at: int) -> bytes | None:
        self.at = at
        self.moves += 1
        return self.keys[at] if 0 <= at < len(self.keys) else None


def item(size: int) -> Item:
    return Item(1, 1, 0, 0, 0, "", b"", size)


def is_folded(wanted: ListRange, name: bytes) -> bool:
    """Whether `name` ends with a delimiter that stands behind the prefix."""
    return name[len(wanted.prefix) :].endswith(wanted.delimiters)


def rows_of(shards: list[Shard], wanted: ListRange) -> list[tuple[bytes, Item | None]]:
    """The oracle: folds every key, then looks which names are wanted."""
    rows: dict[bytes, Item | None] = {}
    for key, size in {key: size for shard in shards for key, size in shard.items()}.items():
        if size is None or not key.startswith(wanted.parts or wanted.prefix):
            continue
        name = next((key[:end] for end in range(len(key) + 1) if is_folded(wanted, key[:end])), None)
        if name is None:
            rows[key] = item(size)
        else:
            rows[name] = None
    above, below = wanted.after, wanted.before
    return sorted(
        (
            (name, row)
            for name, row in rows.items()
            if (above is None or name > above) and (below is None or name < below)
        ),
        key=lambda row: row[0],
        reverse=wanted.reverse,
    )


@st.composite
def stores(draw: st.DrawFn) -> list[Shard]:
    """Keys spread over one to four shards."""
    shards: list[Shard] = [{} for _ in range(draw(st.integers(1, 4)))]
    for key in draw(st.sets(KEYS, max_size=40)):
        shards[draw(st.integers(0, len(shards) - 1))][key] = draw(st.none() | st.integers(0, 9))
    return shards


@st.composite
def ranges(draw: st.DrawFn) -> ListRange:
    """Of a whole prefix, or of parts of it."""
    prefix = draw(st.sampled_from([b"", b"", b"a", b"a/", b"\xf4\x8f\xbf\xbf"]))
    allowed = [("read", prefix + rest) for rest in draw(st.lists(KEYS, max_size=4))]
    return ListRange(
        prefix,
        after=draw(BOUNDS),
        before=draw(BOUNDS),
        reverse=draw(st.booleans()),
        delimiters=tuple(draw(st.lists(st.sampled_from(DELIMITERS), max_size=3))),
        parts=Grants.of("", "", allowed).prefixes_within("read", prefix),  # type: ignore[arg-type]
    )


RANGES = ranges()


def read_page(
    shards: list[Shard], wanted: ListRange, limit: int, max_bytes: int, steps: int
) -> tuple[list[tuple[bytes, Item | None]], bytes | None]:
    walk = Walk(wanted, limit, max_bytes)
    while not (walk.done or walk.full):
        walk.advance([ListCursor(shard) for shard in shards], steps)
    rows = walk.take_rows()
    return rows, None if walk.done else rows[-1][0]


@given(stores(), RANGES, st.integers(1, 5), st.integers(0, 20), st.integers(1, 5))
def test_pages_by_next_are_the_sorted_list(
    shards: list[Shard], wanted: ListRange, limit: int, max_bytes: int, steps: int
) -> None:
    expected = rows_of(shards, wanted)
    listed: list[tuple[bytes, Item | None]] = []
    while True:
        rows, following = read_page(shards, wanted, limit, max_bytes, steps)
        sizes = [row.size for _, row in rows if row is not None]
        assert len(rows) <= limit
        assert len(rows) == 1 or sum(sizes) <= max_bytes or not rows
        listed += rows
        if following is None:
            break
        assert rows, "a page with a next holds something"
        wanted = wanted._replace(**{"before" if wanted.reverse else "after": following})
        assert rows_of(shards, wanted), "next is null where nothing follows"
    assert listed == expected


@given(stores(), RANGES, st.integers(1, 5), st.integers(0, 20), st.integers(1, 5))
def test_one_walk_in_portions_is_the_sorted_list(
    shards: list[Shard], wanted: ListRange, limit: int, max_bytes: int, steps: int
) -> None:
    walk = Walk(wanted, limit, max_bytes)
    listed = []
    while not walk.done:
        walk.advance([ListCursor(shard) for shard in shards], steps)
        listed += walk.take_rows()
    assert listed == rows_of(shards, wanted)


@given(stores(), RANGES.filter(lambda wanted: not wanted.delimiters))
def test_what_comes_and_goes_meanwhile_moves_nothing_else(shards: list[Shard], wanted: ListRange) -> None:
    walk = Walk(wanted, 1, 0)
    listed = []
    transient = [b"a:", b"ab", b"b"]
    kept = [{key: size for key, size in shard.items() if key not in transient} for shard in shards]
    turn = 0
    while not walk.done:
        turn += 1
        now = [dict(shard) for shard in kept]
        if turn % 2:
            now[0].update(dict.fromkeys(transient, 0))
        walk.advance([ListCursor(shard) for shard in now], 1)
        listed += walk.take_rows()
    assert [row for row in listed if row[0] not in transient] == [
        row for row in rows_of(kept, wanted) if row[0] not in transient
    ]


def test_a_prefix_is_leapt_over_not_walked_through() -> None:
    shards: list[Shard] = [
        {b"%d/%06d" % (group, n): 0 for group in range(3) for n in range(shard, 3000, 2)} for shard in (0, 1)
    ]
    for reverse in (False, True):
        cursors = [ListCursor(shard) for shard in shards]
        walk = Walk(ListRange(delimiters=(b":", b"/", b"00999"), reverse=reverse), 1000, 0)
        walk.advance(cursors, 1000)
        assert [name for name, _ in walk.rows] == sorted([b"0/", b"1/", b"2/"], reverse=reverse)
        assert walk.done
        assert sum(cursor.moves for cursor in cursors) <= 8


@given(KEYS, KEYS, st.lists(st.sampled_from(DELIMITERS), min_size=1, max_size=4))
def test_all_that_starts_with_a_folded_name_is_folded_to_it(key: bytes, rest: bytes, delimiters: list[bytes]) -> None:
    """Whatever delimiters overlap: else a leap over the name would miss rows."""
    wanted = ListRange(delimiters=tuple(delimiters))
    [(name, row)] = rows_of([{key: 0}], wanted)
    if row is None:
        assert rows_of([{name + rest: 0}], wanted) == [(name, None)]


def test_keys_are_folded_at_the_delimiter_that_ends_first() -> None:
    keys = dict.fromkeys((b"a/b:c", b"a:b/c", b"a:bc", b"xab", b"xabc", b"y"), 0)
    walk = Walk(ListRange(delimiters=(b"/", b":")), 10, 0)
    walk.advance([ListCursor(dict(keys))], 100)
    assert [name for name, _ in walk.rows] == [b"a/", b"a:", b"xab", b"xabc", b"y"]
    walk = Walk(ListRange(delimiters=(b"abc", b"b")), 10, 0)
    walk.advance([ListCursor({b"xab": 0, b"xabc": 0, b"xac": 0})], 100)
    assert [(name, row is None) for name, row in walk.rows] == [(b"xab", True), (b"xac", False)]


def test_parts_are_sought_not_walked_to() -> None:
    shards: list[Shard] = [{b"%06d" % n: 0 for n in range(shard, 30_000, 2)} for shard in (0, 1)]
    for reverse in (False, True):
        cursors = [ListCursor(shard) for shard in shards]
        walk = Walk(ListRange(parts=(b"00012", b"000777", b"0298", b"x"), reverse=reverse), 1000, 0)
        walk.advance(cursors, 1000)
        assert len(walk.rows) == 10 + 1 + 100
        assert walk.done
        assert sum(cursor.moves for cursor in cursors) <= 111 + 4 * 4


def test_a_page_looks_at_its_own_keys() -> None:
    shards: list[Shard] = [{b"%06d" % n: 0 for n in range(shard, 30_000, 3)} for shard in range(3)]
    cursors = [ListCursor(shard) for shard in shards]
    walk = Walk(ListRange(after=b"010000"), 100, 0)
    walk.advance(cursors, 1000)
    assert len(walk.rows) == 100
    assert walk.full
    assert sum(cursor.moves for cursor in cursors) == 103


@given(KEYS, KEYS)
def test_beyond(prefix: bytes, key: bytes) -> None:
    end = end_of_prefix(prefix)
    assert end is not None
    assert key.startswith(prefix) == (prefix <= key < end)
    assert end_of_prefix(b"") is None
