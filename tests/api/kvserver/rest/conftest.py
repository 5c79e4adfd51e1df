"""An application over three real shards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.kvserver.rest.sites import MAX_VALUE, SHARDS
from tests.api.site import Site, running_site


@pytest.fixture(scope="module")
def running() -> Iterator[Site]:
    with running_site(SHARDS, MAX_VALUE) as made:
        yield made


@pytest.fixture
def site(running: Site) -> Site:
    """An empty store."""
    assert running.delete("/v1/kv?all=true")["complete"]
    return running
