"""The calls about the server itself: what counts as an answer of one."""

from __future__ import annotations

import pytest

from kvserver.client.core import service
from kvserver.client.core.calls import Answer
from kvserver.client.errors import ForeignAnswer

JSON = {"content-type": "application/json"}
PROBLEM = {"content-type": "application/problem+json"}


def test_a_server_is_ready_or_not() -> None:
    read = service.ready().read
    assert read(Answer(200, JSON, b'{"status":"ready"}')) is True
    assert read(Answer(503, PROBLEM, b'{"code":"unavailable"}')) is False


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, {"content-type": "text/html"}, b"<h1>Welcome</h1>"),
        Answer(200, JSON, b"{}"),
        Answer(200, JSON, b'{"status":"UP"}'),
        Answer(204, {}, b""),
        Answer(503, {"content-type": "text/html"}, b"<h1>Busy</h1>"),
    ],
)
def test_the_readiness_of_another_server_is_none(answer: Answer) -> None:
    with pytest.raises(ForeignAnswer):
        service.ready().read(answer)
