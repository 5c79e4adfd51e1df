"""A store to back up."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.api.maps import Run, first_run
from tests.api.shards.backup.tools import (
    SEGMENT,
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return first_run(tmp_path / "store", segment=SEGMENT).open()
