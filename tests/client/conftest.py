"""Fixtures of the conformance suite: a server and a driver for each client, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.client.driver import Driver, Unsupported
from tests.client.sdks import DRIVERS, Sdk
from tests.system.harness import Server


@pytest.fixture(scope="module")
def server(make_dir: Callable[[str], Path]) -> Iterator[Server]:
    """A running server with two shards and two workers on an empty store."""
    with Server(make_dir("data"), "--shards", "2", "--workers", "2") as running:
        yield running


@pytest.fixture(scope="module", params=DRIVERS.values(), ids=DRIVERS)
def sdk(request: pytest.FixtureRequest) -> Sdk:
    """A client of those that are here."""
    found: Sdk = request.param
    return found


@pytest.fixture(scope="module")
def shared_driver(sdk: Sdk, server: Server) -> Iterator[Driver]:
    """The driver of the client, for all tests of a module."""
    with Driver(sdk.command(), server.url) as driver:
        yield driver


@pytest.fixture
def driver(shared_driver: Driver) -> Driver:
    """The driver, with the options that it started with."""
    shared_driver.ask("options", timeout=10, patience=5, idempotency=True)
    return shared_driver


@pytest.fixture
def key(request: pytest.FixtureRequest, sdk: Sdk) -> str:
    """A key of this test's own; what begins with it is the test's too."""
    return f"{sdk.name}/{request.function.__name__}/"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Expect the failure of a test that uses a verb which its client need not have."""
    try:
        return (yield)
    except Unsupported as verb:
        sdk = getattr(item, "funcargs", {}).get("sdk")
        if sdk is not None and str(verb) in sdk.lacks:
            pytest.xfail(f"{sdk.name} has no {verb}")
        raise AssertionError(f"the driver has no {verb}") from None
