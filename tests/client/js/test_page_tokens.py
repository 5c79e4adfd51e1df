"""The conformance suite about tokens, in a page."""

from tests.client.test_tokens import *  # noqa: F403
