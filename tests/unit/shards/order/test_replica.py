"""What counts of the messages in an order, one rule at a time."""

from __future__ import annotations

import pytest

from shards.order import replica as replica_module
from shards.order.messages import (
    LEVEL,
    Batch,
    Begin,
    Content,
    In,
    Init,
    Out,
    Part,
    UnknownLevel,
    Void,
    encode_init,
    encode_message,
    init_of,
)
from shards.order.order import Message
from shards.order.replica import Effect, Member, Replica, Session, StateError, decode_state, encode_state

INIT = init_of("store", "epoch", 100, ["a", "b", "c"], {"value": 7})


class Fed:
    """A replica, and the end of the order that it is fed with."""

    def __init__(self, replica: Replica | None = None) -> None:
        self.replica = replica or Replica()
        self.messages: list[Message] = []

    def raw(self, payload: bytes, time_ms: int = 1000) -> Effect:
        message = Message(self.replica.state.sequence + 1, time_ms, payload)
        self.messages.append(message)
        effect = self.replica.deliver(message)
        assert effect is not None
        return effect

    def say(self, node: str, session: int, counter: int, content: Content) -> Content | None:
        return self.raw(encode_message(1, node, session, counter, content)).content


@pytest.fixture
def fed() -> Fed:
    fed = Fed()
    assert fed.raw(encode_init(INIT)).content == INIT
    for session, node in enumerate("abc", 1):
        assert fed.say(node, session, 0, Begin(0)) == Begin(0)
    return fed


def test_nothing_counts_before_the_first_message() -> None:
    fed = Fed()
    assert fed.say("a", 1, 0, Begin(0)) is None
    assert fed.raw(encode_init(INIT)).content == INIT
    assert fed.say("a", 1, 0, Begin(0)) == Begin(0)


def test_what_all_agree_on_stays(fed: Fed) -> None:
    assert fed.raw(encode_init(Init("other", "other", 1, ("x",), {}))).content is None
    assert fed.replica.state.init == INIT


def test_a_node_of_no_machine_has_no_say(fed: Fed) -> None:
    assert fed.say("d", 1, 0, Begin(0)) is None
    assert fed.say("d", 1, 1, In()) is None


def test_messages_count_in_their_order_once(fed: Fed) -> None:
    assert fed.say("a", 1, 2, Batch(b"second")) is None
    assert fed.say("a", 1, 1, Batch(b"first")) == Batch(b"first")
    assert fed.say("a", 1, 1, Batch(b"first")) is None
    assert fed.say("a", 1, 2, Batch(b"second")) == Batch(b"second")
    assert fed.replica.state.sessions["a"] == Session(1, 2)


def test_a_session_ends_that_before_and_names_it(fed: Fed) -> None:
    assert fed.say("a", 1, 1, Batch(b"first")) is not None
    assert fed.say("a", 9, 0, Begin(7)) is None, "that is not the session there is"
    assert fed.say("a", 9, 1, Begin(1)) is None, "a begin has no counter"
    assert fed.say("a", 0, 0, Begin(1)) is None, "0 is no session"
    assert fed.say("a", 9, 0, Begin(1)) == Begin(1)
    assert fed.say("a", 9, 0, Begin(1)) is None
    assert fed.say("a", 9, 0, Begin(9)) is None
    assert fed.say("a", 1, 2, Batch(b"late")) is None
    assert fed.say("a", 9, 1, Batch(b"next")) is not None


def test_a_message_that_cannot_be_read_takes_its_place(fed: Fed) -> None:
    effect = fed.raw(b"\x01nonsense")
    assert effect == Effect(5, 1000, 1, "", 0, 0, None)
    assert fed.replica.resume_after == 5


def test_a_level_that_is_not_known_changes_nothing(fed: Fed) -> None:
    before = encode_state(fed.replica.state)
    with pytest.raises(UnknownLevel):
        fed.raw(bytes((LEVEL + 1,)))
    assert encode_state(fed.replica.state) == before
    assert fed.replica.resume_after == 4


@pytest.mark.parametrize("sequence", [4, 6])
def test_a_gap_is_refused(fed: Fed, sequence: int) -> None:
    with pytest.raises(ValueError, match="not the next one, 5"):
        fed.replica.deliver(Message(sequence, 1000, b"\x01"))


def test_time_never_goes_back(fed: Fed) -> None:
    assert fed.raw(b"\x01", 5000).time_ms == 5000
    assert fed.raw(b"\x01", 4000).time_ms == 5000
    assert fed.raw(b"\x01", 5001).time_ms == 5001


def test_members_come_and_are_put_out_by_most_nodes(fed: Fed) -> None:
    fed.say("a", 1, 1, In())
    assert fed.replica.state.members == {"a": Member(5)}
    fed.say("b", 2, 1, Out("a", 5))
    fed.say("b", 2, 2, Out("a", 5))
    assert fed.replica.state.members == {"a": Member(5, ["b"])}
    fed.say("c", 3, 1, Out("a", 4))
    assert fed.replica.state.members == {"a": Member(5, ["b"])}
    fed.say("c", 3, 2, Out("a", 5))
    assert fed.replica.state.members == {}
    fed.say("c", 3, 3, Out("a", 5))


def test_entering_again_clears_votes(fed: Fed) -> None:
    fed.say("a", 1, 1, In())
    fed.say("b", 2, 1, Out("a", 5))
    fed.say("a", 1, 2, In())
    assert fed.replica.state.members == {"a": Member(7)}


def test_a_member_puts_itself_out(fed: Fed) -> None:
    fed.say("a", 1, 1, In())
    fed.say("a", 1, 2, Out("a", 5))
    assert fed.replica.state.members == {}


@pytest.mark.parametrize(("nodes", "votes"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_most_nodes_put_out(nodes: int, votes: int) -> None:
    fed = Fed()
    fed.raw(encode_init(init_of("store", "epoch", 1, "abcde"[:nodes], {})))
    assert fed.replica.state.votes_to_put_out == votes


def test_parts_are_a_group_when_the_last_has_come(fed: Fed) -> None:
    assert fed.say("a", 1, 1, Part(b"one ", False)) == Part(b"one ", False)
    assert fed.say("b", 2, 1, Part(b"two", True)) == Batch(b"two")
    assert fed.say("a", 1, 2, Part(b"group", True)) == Batch(b"one group")
    assert fed.replica.kept_parts == set()


def test_a_void_or_a_begin_ends_a_group_in_parts(fed: Fed) -> None:
    fed.say("a", 1, 1, Part(b"one ", False))
    fed.say("a", 1, 2, Void())
    assert fed.say("a", 1, 3, Part(b"other", True)) == Batch(b"other")
    fed.say("a", 1, 4, Part(b"one ", False))
    fed.say("a", 8, 0, Begin(1))
    assert fed.replica.kept_parts == set()
    assert fed.say("a", 8, 1, Part(b"new", True)) == Batch(b"new")


def test_a_group_has_only_so_many_parts(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module, "MOST_PARTS", 3)
    for counter in range(1, 4):
        fed.say("a", 1, counter, Part(b"%d" % counter, False))
    fed.say("a", 1, 4, Part(b"4", False))
    assert fed.say("a", 1, 5, Part(b"5", True)) == Batch(b"45")


def test_a_restart_follows_from_the_first_part_of_an_unfinished_group(fed: Fed) -> None:
    fed.say("a", 1, 1, Part(b"one ", False))
    fed.say("b", 2, 1, Batch(b"between"))
    restarted = Replica(decode_state(encode_state(fed.replica.state)))
    assert (restarted.state.sequence, restarted.resume_after) == (6, 4)
    assert [restarted.deliver(message) for message in fed.messages[4:]] == [None, None]
    assert encode_state(restarted.state) == encode_state(fed.replica.state)
    last = Message(7, 1000, encode_message(1, "a", 1, 2, Part(b"group", True)))
    first, second = fed.replica.deliver(last), restarted.deliver(last)
    assert first == second
    assert second is not None and second.content == Batch(b"one group")


def test_the_hash_tells_what_was_made_of_messages(fed: Fed) -> None:
    other = Replica()
    for message in fed.messages:
        other.deliver(message)
    assert other.state.hash == fed.replica.state.hash
    other.mix(b"something else")
    assert other.state.hash != fed.replica.state.hash


def test_a_state_that_is_none_is_refused() -> None:
    with pytest.raises(StateError, match="cannot be read"):
        decode_state(b"nonsense")
