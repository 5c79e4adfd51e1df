"""One cluster of whole servers for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.servers import Servers, cluster


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with cluster() as made:
        yield made
