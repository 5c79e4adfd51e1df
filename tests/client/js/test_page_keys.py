"""The conformance suite about keys, in a page."""

from tests.client.test_conformance import *  # noqa: F403
from tests.client.test_conformance_many import *  # noqa: F403
