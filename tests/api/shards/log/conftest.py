"""A store with small segments, and the handle of its first shard on the log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.log.appender import LogAppender
from tests.api.shards.log.tools import SEGMENT
from tests.stores import Store, new_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of two shards with small segments."""
    made = new_store(tmp_path, 2, segment=SEGMENT)
    yield made
    made.close()


@pytest.fixture
def log(store: Store) -> Iterator[LogAppender]:
    """The handle of shard 0."""
    made = LogAppender(store.board, 0, segment=SEGMENT)
    yield made
    made.close()
