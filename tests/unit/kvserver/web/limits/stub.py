"""A load without a board."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from kvserver.settings import ServerSettings
from kvserver.web.limits.address_quotas import QuotaLimits
from kvserver.web.limits.load import WorkerLoad
from shards.host.board import WorkerRow


class Row(SimpleNamespace):
    """A worker's row, at `base` among the words."""

    def __init__(self, base: int, connections: int = 0, state: int = WorkerRow.UP) -> None:
        super().__init__(base=base, connections=connections, state=state)


def make_load(words: list[int] | None = None, others: tuple[Row, ...] = (), **limits: int) -> tuple[WorkerLoad, Any]:
    """A load whose worker has the first row; and what it counts."""
    own = Row(0)
    rows = [own, *others]
    workers = SimpleNamespace(living_rows=lambda: list(enumerate(rows)))
    board: Any = SimpleNamespace(workers=workers, words=[0] * 1000 if words is None else words)
    counts: Any = SimpleNamespace(overloads=0)
    own_row: Any = own
    return WorkerLoad(board, own_row, counts, QuotaLimits.of(ServerSettings())._replace(**limits)), counts
