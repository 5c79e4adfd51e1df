"""A map on disk or in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.maps.owner import MapOwner
from tests.api.maps import Run, first_run


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.fixture(params=["tmp_path", "memory"])
def place(request: pytest.FixtureRequest) -> Path:
    """Where maps are: in memory they are written in another way."""
    where: Path = request.getfixturevalue(request.param)
    return where


@pytest.fixture
def map(place: Path) -> Iterator[MapOwner]:
    path = place / "shard-0.1"
    path.mkdir()
    opened = MapOwner(path)
    yield opened
    opened.close()


@pytest.fixture
def run(place: Path) -> Iterator[Run]:
    first = first_run(place, shards=1).open()
    yield first
    first.close_maps()
