"""`python -m shards` says why a shard cannot start, by its exit status too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shards.host.process import PARENT_VARIABLE
from tests.stores import new_store


def shard(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: text for name, text in os.environ.items() if name != PARENT_VARIABLE}
    return subprocess.run(
        [sys.executable, "-m", "shards", *arguments], capture_output=True, text=True, check=False, env=environ
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--index"),
        (("--index", "256"), "--index"),
        (("--index", "0", "--log-level", "loud\x1b"), "--log-level is 'loud\\x1b'"),
        (("--index", "0", "--in-memory", "true"), "give --run-dir"),
    ],
)
def test_a_wrong_command_line_is_status_2_and_quoted_without_controls(arguments: tuple[str, ...], says: str) -> None:
    done = shard(*arguments)
    assert done.returncode == 2
    assert says in done.stderr and "\x1b" not in done.stderr


def test_without_a_server_it_cannot_start(tmp_path: Path) -> None:
    done = shard("--index", "0", "--run-dir", str(tmp_path))
    assert done.returncode == 1
    assert "shard 0 cannot start: no board at" in done.stderr


def test_the_store_must_have_the_shard(tmp_path: Path) -> None:
    store = new_store(tmp_path, shards=2)
    done = shard("--index", "2", "--run-dir", str(store.run_dir))
    assert done.returncode == 1
    assert "the store has 2 shards: there is no shard 2" in done.stderr
    store.close()
