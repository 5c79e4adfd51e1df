"""`python -m shards`: a real process with a real log and a real map, asked, killed, started again and stopped."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.manifest import Manifest
from shards.protocol import Delete, Done, Put
from tests.api import shard as tools
from tests.api.shard import client, shard
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


def test_answers_logs_maps_and_stops(store: Store) -> None:
    with shard(store) as process:
        with client(store) as asking:
            assert asking.ask(Put(b"k", b"1"), Put(b"k", b"2", want_previous=True), Delete(b"x")) == [
                Done(1, False),
                Done(2, True, b"1"),
                Done(0, False),
            ]
            assert tools.mapped(store) == {b"k": (2, 0, b"2")}
            assert asking.do(Delete(b"k", want_previous=True)) == Done(3, True, b"2")
        tools.check_agreement(store)
        status, said = process.stop()
    assert status == 0, said
    assert "shard 0 up: 0 keys" in said
    assert "shard 0 stopped" in said
    assert process.row.incarnation == 0
    assert not list(store.run_dir.glob("shard-0*"))
