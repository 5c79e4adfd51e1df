"""A store of one shard, that shard in this process, and a client of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.log.manifest import Manifest
from shards.server.loop import ShardServer
from tests.api.shards.server.tools import Client, client, serving
from tests.stores import Store, new_store


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose name is short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="kv-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def store(place: Path) -> Iterator[Store]:
    made = new_store(place, shards=1)
    Manifest.create(made.data_dir).save(made.data_dir)
    yield made
    made.close()


@pytest.fixture
def server(store: Store) -> Iterator[ShardServer]:
    with serving(store) as made:
        yield made


@pytest.fixture
def asking(store: Store, server: ShardServer) -> Iterator[Client]:
    with client(store, turn=lambda: server.run_turn(0.005)) as made:
        yield made
