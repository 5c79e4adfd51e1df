"""The conformance suite of the feed, in a page, by a WebSocket; lines are the same there as in Node."""

import pytest

from tests.client.js.conftest import page_sdk
from tests.client.sdks import Sdk
from tests.client.test_watch_conformance import *  # noqa: F403


@pytest.fixture(scope="module", params=["websocket"])
def transport(request: pytest.FixtureRequest) -> str:
    """How the feed is carried."""
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def sdk(endpoint: str) -> Sdk:
    """The JavaScript client in a page."""
    return page_sdk(endpoint)
