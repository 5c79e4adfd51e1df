"""`kvserver stop` where no server runs, or where it must not stop what the board names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kvserver.cli import main
from kvserver.commands.local import stop
from kvserver.serve.store import make_data_dir, take_store_lock
from tests.stores import new_store


def run(tmp_path: Path, *words: str) -> Result:
    where = ["--data-dir", str(tmp_path / "data"), "--run-dir", str(tmp_path / "run")]
    return CliRunner().invoke(main, ["stop", *words, *where], catch_exceptions=False)


def test_without_a_server_there_is_nothing_to_stop(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"no server runs on the store in {tmp_path / 'data'}" in done.stderr


def test_all_needs_release(tmp_path: Path) -> None:
    done = run(tmp_path, "--all")
    assert done.exit_code == 2
    assert "--all" in done.stderr and "--release" in done.stderr


def test_a_server_in_another_run_directory_is_named(tmp_path: Path) -> None:
    make_data_dir(tmp_path / "data")
    held = take_store_lock(tmp_path / "data")
    done = run(tmp_path)
    os.close(held)
    assert done.exit_code == 1
    assert f"(pid {os.getpid()})" in done.stderr and "--run-dir" in done.stderr


def test_a_process_that_has_not_the_board_open_is_not_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pid is of another PID namespace, or was given away again."""
    store = new_store(tmp_path, shards=1)
    monkeypatch.setattr(stop, "_open_files", lambda pid: iter(()))
    done = run(tmp_path)
    store.close()
    assert done.exit_code == 1
    assert f"pid {os.getpid()} is not the server that runs here" in done.stderr
