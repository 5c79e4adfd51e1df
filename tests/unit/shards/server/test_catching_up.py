"""What the log says of a machine that is far behind."""

from __future__ import annotations

import logging

import pytest

from shards.server.catching_up import FAR, SAY_S, CatchingUp


def test_it_says_when_it_begins_now_and_then_and_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "shards")
    catching_up = CatchingUp()
    for second in range(26):
        catching_up.look(100 + 400 * second, 10_000, 50.0 + second)
    assert [record.getMessage() for record in caplog.records] == [
        "catching up: this machine is 9900 messages behind, at message 100 of 10000",
        f"still catching up: at message {100 + 400 * 10} of 10000, 5900 behind",
        f"still catching up: at message {100 + 400 * 20} of 10000, 1900 behind",
        "caught up: 10000 messages in 25.0 s, up to message 10000",
    ]
    assert SAY_S == 10


def test_a_machine_that_is_hardly_behind_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "shards")
    catching_up = CatchingUp()
    for sequence in range(0, FAR, 100):
        catching_up.look(sequence, FAR, float(sequence))
    assert caplog.records == []


def test_it_may_fall_behind_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "shards")
    catching_up = CatchingUp()
    for sequence, last in ((0, 1000), (1000, 1000), (1000, 2000), (2000, 2001)):
        catching_up.look(sequence, last, 1.0)
    assert [record.getMessage().split()[0] for record in caplog.records] == ["catching", "caught", "catching", "caught"]
