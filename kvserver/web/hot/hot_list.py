"""A small page of a list on the hot path."""

from __future__ import annotations

from kvserver.access.grants import Grants
from kvserver.one_key.answers import Answer
from kvserver.web.hot.hot_request import HotRequest


def answer_list(request: HotRequest, query: bytes, grants: Grants) -> bool:
    """Answer a GET of `/v1/kv` whole; return False, with nothing done, if it has to take the ordinary path.

    `query`: as sent.
    """
    small_lists, fields = request.connection.context.small_lists, request.fields
    if small_lists is None:
        return False
    made = small_lists.take(query, fields.accept[1:].decode(), fields.accept_encoding, grants)
    if made is None:
        return False
    request.write_answer(Answer(200, *made))
    request.connection.finish_read()
    return True
