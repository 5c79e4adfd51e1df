"""Polls of `/v1/feed`, without a connection."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvserver.access.grants import EVERYTHING
from kvserver.api.feed_query import FeedQuery
from kvserver.gateway.sessions import polls
from kvserver.gateway.sessions.polls import PollFeed
from kvserver.gateway.transport.send_budget import BudgetCharge, SendBudget
from tests.unit.kvserver.gateway.sessions.followers import Clock, FakeFollower, FakeStream

FROM_THE_START = FeedQuery(since=b"e.0")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(polls, "time", clock)
    return clock


def new_poll(follower: Any, query: FeedQuery, budget: SendBudget | None = None) -> tuple[PollFeed, Any]:
    refuse: Any = lambda error: error.code.encode()  # noqa: E731
    feed = PollFeed(follower, budget or SendBudget(), query, EVERYTHING, lambda body: body, refuse)
    stream: Any = FakeStream()
    feed.carry(stream)
    return feed, stream


def test_a_poll_gets_what_there_is() -> None:
    follower: Any = FakeFollower()
    feed, stream = new_poll(follower, FROM_THE_START)
    answer = json.loads(stream.source())
    assert (answer["cursor"], answer["more"]) == ("e.3", False)
    assert stream.calls == [("end",)] and stream.farewell("stop") == b""
    feed.end()
    feed, stream = new_poll(follower, FeedQuery())
    assert json.loads(stream.source()) == {"cursor": "e.3", "more": False, "messages": []}
    feed.end()


def test_a_poll_waits_until_its_time_is_over(clock: Clock) -> None:
    follower: Any = FakeFollower()
    feed, stream = new_poll(follower, FeedQuery(since=b"e.3", wait_s=5))
    assert stream.source() is None
    clock.now += 5
    assert json.loads(stream.source())["messages"] == []
    feed.end()


def test_a_poll_waits_for_what_was_visible(clock: Clock) -> None:
    """For a moment, where the gateway has not shown it yet."""
    follower: Any = FakeFollower()
    follower.history.watermark = lambda: 4
    feed, stream = new_poll(follower, FROM_THE_START)
    assert stream.source() is None
    clock.now += polls.CATCH_UP_S
    assert json.loads(stream.source())["cursor"] == "e.3"
    feed.end()


def test_a_poll_is_refused_while_the_budget_is_high() -> None:
    follower: Any = FakeFollower()
    budget = SendBudget(100)
    charge = BudgetCharge(budget)
    charge.set_bytes(80)
    feed, stream = new_poll(follower, FROM_THE_START, budget)
    assert stream.source() == b"overloaded" and stream.calls == [("end",)]
    feed.end()
