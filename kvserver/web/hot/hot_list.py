"""A small page of a list on the hot path."""

from __future__ import annotations

from kvserver.access.grants import Grants
from kvserver.http import routes
from kvserver.web.hot.fields import HeaderFields
from kvserver.web.hot.hot_request import format_lines
from kvserver.web.ports import IDLE_S, ConnectionPort


def answer_list(
    connection: ConnectionPort, fields: HeaderFields, query: bytes, grants: Grants, begun_at: float
) -> bool:
    """Answer a GET of `/v1/kv` whole; return False, with nothing done, if it has to take the ordinary path.

    `query`: as sent. `begun_at`: when the request arrived, by `perf_counter`.
    """
    context = connection.context
    if context.small_lists is None:
        return False
    answer = context.small_lists.take(query, fields.accept[1:].decode(), fields.accept_encoding, grants)
    if answer is None:
        return False
    headers, body = answer
    head = context.heads[fields.origin != b""].of_status(200)
    connection.transport.write(b"%b%bcontent-length: %d\r\n\r\n%b" % (head, format_lines(headers), len(body), body))
    connection.deadline = context.clock + IDLE_S
    context.record_answer(connection.peer.address, "GET", routes.MANY, routes.MANY.encode(), 200, begun_at)
    return True
