"""The schemas of the feed's messages, against the words that the gateway uses."""

from __future__ import annotations

from typing import get_args

import jsonschema_rs

from kvserver.description import messages
from kvserver.gateway.feed.cursors import Reason
from kvserver.gateway.transport.frames import Ending
from tests.unit.kvserver.description.document import DOCUMENT


def test_the_words_of_the_feed_are_those_it_uses() -> None:
    """Written down here, for descriptions import nothing of the gateway."""
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["FeedGap"]["properties"]["reason"]["enum"] == list(get_args(Reason))
    assert schemas["FeedClosing"]["properties"]["reason"]["enum"] == list(get_args(Ending))
    message = {"$ref": "#/components/schemas/FeedMessage", "components": DOCUMENT["components"]}
    validator = jsonschema_rs.Draft202012Validator(message, validate_formats=True)
    for example in (*messages.EXAMPLE["messages"], *messages.STREAM):
        validator.validate(example)
    assert not validator.is_valid({"type": "bookmark", "cursor": "x"})
