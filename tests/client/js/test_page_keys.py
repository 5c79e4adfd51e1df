"""The conformance suite about keys, in a page."""

from tests.client.test_conformance import *  # noqa: F403
from tests.client.test_conformance_many import *  # noqa: F403

del test_get_many_of_more_than_an_answer  # noqa: F821 - Playwright takes a minute for the 50 MB of its lines
