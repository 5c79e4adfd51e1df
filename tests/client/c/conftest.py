"""Fixtures of the C client's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.client.c import building
from tests.client.sdks import DRIVERS
from tests.system.harness import Server


@pytest.fixture(autouse=True, scope="session")
def _tools() -> None:
    DRIVERS["c"].require_tools()


@pytest.fixture(scope="session")
def client_object(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client, compiled with the sanitizers."""
    return building.compile_object(tmp_path_factory.mktemp("c") / "kvclient.o", *building.SANITIZERS)


@pytest.fixture
def new_c_server(make_dir: Callable[[str], Path]) -> Iterator[Callable[..., Server]]:
    """Makes servers of the test's own in memory, not started yet."""
    with ExitStack() as stack:

        def make(*options: str) -> Server:
            server = Server(make_dir("data"), "--in-memory", *options)
            stack.callback(server.close)
            return server

        yield make
