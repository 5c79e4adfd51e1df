"""Which keys the blocks of the history are about, in so few bytes that far more of them fit than blocks. Pure.

A client whose keys are not in a block skips it, without reading or decoding it again.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from kvserver.gateway.feed.events import Block
from kvserver.gateway.feed.selection import Selection

SUMMARY_BYTES: Final = 32 << 20
"""Memory for the summaries of a gateway."""

_OVERHEAD: Final = 600  # bytes that a summary takes besides keys
_BETWEEN: Final = b"\xff"  # keys are UTF-8, in which it never occurs


class BlockSummary:
    """The keys of a block, by what happened to them.

    Attributes:
        begin, end: it is about every revision from `begin` + 1 to `end`.
        weight: about the bytes of memory that it takes.
    """

    __slots__ = ("_keys", "begin", "end", "weight")

    def __init__(self, block: Block) -> None:
        self.begin, self.end = block.begin, block.end
        keys: dict[str, dict[bytes, None]] = {}
        for event in block.events:
            keys.setdefault(event.op, {})[event.key] = None
        self._keys = {op: b"%b%b%b" % (_BETWEEN, _BETWEEN.join(found), _BETWEEN) for op, found in keys.items()}
        self.weight = _OVERHEAD + sum(map(len, self._keys.values()))

    def may_show(self, selection: Selection, ops: frozenset[str] | None) -> bool:
        """Whether an event of the keys of `selection` and of `ops` (None: all), or a mark of such a prefix, is among
        those of the block."""
        wanted = [_BETWEEN + prefix for prefix in selection.prefixes]
        wanted += [b"%b%b%b" % (_BETWEEN, key, _BETWEEN) for key in selection.keys]
        for op, keys in self._keys.items():
            if (ops is None or op in ops or op == "mark") and any(part in keys for part in wanted):
                return True
        return False


class BlockSummaries:
    """Summaries of blocks. If there are too many, those of the newest blocks stay: most clients return soon,
    and what is dropped first is what the log drops first."""

    def __init__(self, most_bytes: int = SUMMARY_BYTES) -> None:
        self._most_bytes = most_bytes
        self._summaries: list[BlockSummary] = []
        self._begins: list[int] = []
        self._weight = 0

    def note(self, block: Block) -> BlockSummary:
        """Keep the summary of `block`, if there is room, and return it."""
        at = bisect_right(self._begins, block.begin)
        if at and self._begins[at - 1] == block.begin:
            if self._summaries[at - 1].end >= block.end:
                return self._summaries[at - 1]
            at -= 1
            self._weight -= self._summaries.pop(at).weight
            del self._begins[at]
        summary = BlockSummary(block)
        self._summaries.insert(at, summary)
        self._begins.insert(at, summary.begin)
        self._weight += summary.weight
        if self._weight > self._most_bytes:
            self._drop()
        return summary

    def _drop(self) -> None:
        """Drop more than is too much, so that it is done seldom."""
        count = 0
        while count < len(self._summaries) and self._weight > self._most_bytes * 15 // 16:
            self._weight -= self._summaries[count].weight
            count += 1
        del self._summaries[:count], self._begins[:count]

    def find(self, revision: int) -> BlockSummary | None:
        """Return the summary of a block that holds the revision after `revision`; None: none is known."""
        at = bisect_right(self._begins, revision) - 1
        return self._summaries[at] if at >= 0 and revision < self._summaries[at].end else None
