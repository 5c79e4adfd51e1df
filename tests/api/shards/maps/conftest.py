"""A map on disk or in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.maps.directory import choose as mapdir
from shards.maps.directory.choose import MIN_FREE_BYTES
from shards.maps.owner import MapOwner
from tests.api.maps import Run, first_run
from tests.api.shards.maps.tools import STORE, store_in


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


@pytest.fixture
def shm(tmp_path: Path) -> Path:
    directory = tmp_path / "shm"
    directory.mkdir()
    return directory


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return store_in(tmp_path / "data", STORE)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Bytes that are free everywhere; more than enough."""
    free = [MIN_FREE_BYTES * 100]
    monkeypatch.setattr(mapdir, "free_bytes", lambda _: free[0])
    yield free
