"""Fixtures of the real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system.harness import Server


@pytest.fixture(scope="module")
def server(make_dir: Callable[[str], Path]) -> Iterator[Server]:
    """A running server with two shards and two workers on an empty store, shared by the tests of a module."""
    with Server(make_dir("data"), "--shards", "2", "--workers", "2") as running:
        yield running


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers of the test's own: `new_server("--shards", "3")`, not started yet, all on `tmp_path / "data"`."""
    with ExitStack() as stack:

        def make(*options: str, **more: object) -> Server:
            server = Server(tmp_path / "data", *options, **more)  # type: ignore[arg-type]
            stack.callback(server.close)
            return server

        yield make
