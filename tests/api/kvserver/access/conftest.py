"""A board for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kvserver.access import tickets
from tests.api.kvserver.access.boards import Clock, make_board


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Clock]:
    (tmp_path / tickets.DIRECTORY).mkdir()
    board = make_board(tmp_path)
    yield board
    board.close()
