"""A store with three shard processes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shards.log.manifest import Manifest
from tests.api.kvserver.store.tools import SHARDS
from tests.api.shards.server.tools import shard
from tests.stores import Store, new_store


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    place = Path(tempfile.mkdtemp(prefix="kv-"))  # short: sockets live there
    made = new_store(place, shards=SHARDS, sync="os")
    Manifest.create(made.data_dir).save(made.data_dir)
    with ExitStack() as stack:
        for index in range(SHARDS):
            stack.enter_context(shard(made, index))
        yield made
    made.close()
    shutil.rmtree(place)
