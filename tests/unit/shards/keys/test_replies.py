"""Replies that wait for their group: revisions, old values, and how much they may carry."""

from __future__ import annotations

import pytest

from shards.keys.budget import FULL_BYTES, GroupLoad
from shards.keys.replies import PendingReplies
from shards.wire.clock import Now
from shards.wire.errors import AnswerTooLarge, Overloaded
from shards.wire.protocol import Done, Failed, Replaced, Value

NOW = Now(1_000, 5_000)


@pytest.fixture
def replies() -> PendingReplies:
    return PendingReplies(NOW, GroupLoad())


class TestRevisions:
    def test_those_of_the_group_become_real_ones(self, replies: PendingReplies) -> None:
        done, value, failed = replies.add_done(-1, True, False), Value(-2, True), Failed("any", "", -1)
        replies.await_revision(value)
        replies.await_revision(failed)
        assert replies.set_revisions(10) == set()
        assert [reply.revision for reply in (done, value, failed)] == [10, 11, 10]

    def test_those_of_earlier_groups_stay(self, replies: PendingReplies) -> None:
        value, failed = Value(7, True), Failed("any", "", 0)
        replies.await_revision(value)
        replies.await_revision(failed)
        replies.set_revisions(10)
        assert (value.revision, failed.revision) == (7, 0)

    def test_a_lifetime_is_answered_as_a_wall_time(self, replies: PendingReplies) -> None:
        assert [replies.add_done(-1, True, False, expiry).expires_ms for expiry in (0, 1_234, -5_200)] == [
            0,
            1_234,
            1_200,
        ]


class TestOldValues:
    def test_are_filled_in_where_they_are_wanted(self, replies: PendingReplies) -> None:
        first, second = replies.add_done(-1, True, False), replies.add_done(-2, True, True)
        assert replies.set_revisions(10) == {11}
        replies.fill_old_values({11: (b"old", "a/b", 3)})
        assert (first, second) == (Done(10, True), Replaced(11, True, b"old", 0, "a/b", 3))


class TestSizes:
    def test_answers_are_bounded_and_count_as_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shards.keys.replies.MAX_ANSWERS", FULL_BYTES + 1)
        load = GroupLoad()
        replies = PendingReplies(NOW, load)
        replies.count_answer(FULL_BYTES)
        assert (load.work_bytes, load.is_full) == (FULL_BYTES, False)
        with pytest.raises(Overloaded):
            replies.count_answer(2)
        assert (replies.bytes, load.work_bytes) == (FULL_BYTES, FULL_BYTES)
        replies.count_answer(1)
        assert load.is_full

    def test_each_batch_has_a_limit_and_no_holes(
        self, replies: PendingReplies, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shards.keys.replies.ANSWER_BYTES", 10)
        replies.count_batch_answer(1, 6)
        for size in (5, 1):
            with pytest.raises(AnswerTooLarge):
                replies.count_batch_answer(1, size)
        replies.count_batch_answer(2, 10)
        assert replies.bytes == 16


def test_a_savepoint_drops_later_replies(replies: PendingReplies) -> None:
    kept = replies.add_done(-1, True, True)
    replies.count_answer(4)
    restore = replies.set_savepoint()
    dropped = replies.add_done(-2, True, True)
    replies.count_answer(5)
    restore()
    assert replies.bytes == 4
    assert replies.set_revisions(10) == {10}
    assert (kept.revision, dropped.revision) == (10, -2)
