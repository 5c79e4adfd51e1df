"""Pages of the maps of all shards, for snapshots."""

from __future__ import annotations

from collections.abc import Sequence

from kvserver.gateway.feed.events import OCTETS, SnapshotItem
from kvserver.gateway.feed.selection import Selection
from kvserver.gateway.feed.snapshots import PAGE_BYTES, PAGE_ITEMS, MapPart, Page, read_page
from shards.host.board import Board
from shards.maps.reader import MapReader
from shards.wire.keys import shard_of


class MapPages:
    """Reads the maps of a store. Expired keys too: what shows their end is an event, and an event that keeps them may
    have come before it."""

    def __init__(self, board: Board) -> None:
        """Open the maps of all shards."""
        self._board = board
        self._maps = [MapReader(board, shard) for shard in range(board.facts.shards)]

    def close(self) -> None:
        """Close the maps."""
        for reader in self._maps:
            reader.close()

    def read(self, selection: Selection, after: bytes, values: bool) -> Page:
        """Read the next page of the keys of `selection` above `after`. Raises `Unavailable`."""

        def read_prefix(prefix: bytes, after: bytes) -> Sequence[MapPart]:
            return [self._part_of_prefix(reader, prefix, after, values) for reader in self._maps]

        def read_key(key: bytes) -> MapPart:
            return self._part_of_key(self._maps[shard_of(key, len(self._maps))], key, values)

        return read_page(read_prefix, read_key, selection, after)

    def _part_of_prefix(self, reader: MapReader, prefix: bytes, after: bytes, values: bool) -> MapPart:
        most, most_bytes = max(PAGE_ITEMS // len(self._maps), 16), max(PAGE_BYTES // len(self._maps), 16 << 10)
        above = after if after.startswith(prefix) and after else None
        (_, applied), found = reader.read_page(
            prefix, above, most, self._board.now(), values=values, max_bytes=most_bytes, expired=True
        )
        items = [
            SnapshotItem(
                key,
                item.revision,
                item.modified_ms,
                item.expires_ms,
                item.content_type or OCTETS,
                item.value,
                item.size,
            )
            for key, item in found
        ]
        full = len(items) >= most or sum(len(item.value) for item in items) >= most_bytes
        return MapPart(items, full, applied)

    def _part_of_key(self, reader: MapReader, key: bytes, values: bool) -> MapPart:
        (_, applied), item = reader.read_item(key, self._board.now(), values=values, expired=True)
        if item is None:
            return MapPart([], False, applied)
        content_type = item.content_type or OCTETS
        found = SnapshotItem(key, item.revision, item.modified_ms, item.expires_ms, content_type, item.value, item.size)
        return MapPart([found], False, applied)
