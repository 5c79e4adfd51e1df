"""The store of a command: running, stopped, of another directory, or none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kvserver.commands.local import local_store
from kvserver.commands.local.local_store import (
    CommandRefused,
    open_running_board,
    require_store,
    serving_pid,
    settings_of,
    stopped_store,
)
from kvserver.serve.store import make_data_dir, take_store_lock
from kvserver.settings import ServerSettings
from shards.log.manifest import Manifest, ManifestError
from tests.stores import Store, new_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = new_store(tmp_path, shards=1)
    yield made
    made.close()


def settings_for(store: Store, **more: object) -> ServerSettings:
    return ServerSettings(**({"data_dir": store.data_dir, "run_dir": store.run_dir} | more))  # type: ignore[arg-type]


def test_the_board_of_a_running_server_is_opened(store: Store) -> None:
    board = open_running_board(settings_for(store))
    assert board is not None
    assert board.facts.supervisor_pid == os.getpid()
    board.close()


def test_without_a_server_there_is_no_board(store: Store, tmp_path: Path) -> None:
    (store.run_dir / "board").unlink()
    assert open_running_board(settings_for(store)) is None
    assert open_running_board(settings_for(store, run_dir=tmp_path / "nowhere")) is None


def test_a_server_of_another_store_is_not_taken_for_it(store: Store, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for _ in range(2):
        with pytest.raises(CommandRefused, match=rf"serves {store.data_dir}, not {other}"):
            open_running_board(settings_for(store, data_dir=other))
        other.mkdir(exist_ok=True)


def test_the_process_that_holds_a_store_is_found(tmp_path: Path) -> None:
    assert serving_pid(tmp_path) is None
    make_data_dir(tmp_path)
    held = take_store_lock(tmp_path)
    assert serving_pid(tmp_path) == os.getpid()
    os.close(held)
    assert serving_pid(tmp_path) is None


def test_a_stopped_store_is_locked_as_by_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(take_store_lock, "__defaults__", (0.0,))
    make_data_dir(tmp_path)
    with stopped_store(tmp_path):
        assert serving_pid(tmp_path) == os.getpid()
        with pytest.raises(CommandRefused, match="another process"), stopped_store(tmp_path):
            pass
    assert serving_pid(tmp_path) is None


def test_a_store_is_on_disk(tmp_path: Path) -> None:
    with pytest.raises(CommandRefused, match="in memory"):
        require_store(ServerSettings(in_memory=True))
    with pytest.raises(ManifestError):
        require_store(ServerSettings(data_dir=tmp_path))
    Manifest.create(tmp_path).save(tmp_path)
    require_store(ServerSettings(data_dir=tmp_path))


def test_a_wrong_setting_is_a_usage_error() -> None:
    assert settings_of({"port": "7"}).port == 7
    with pytest.raises(click.UsageError, match="--port is 'x'"):
        settings_of({"port": "x"})


def test_a_priority_that_cannot_be_lowered_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def nice(by: int) -> int:
        asked.append(by)
        raise PermissionError

    monkeypatch.setattr(os, "nice", nice)
    local_store.lower_priority()
    assert asked == [10]
