"""When messages are sent, and sent again; what can be withdrawn."""

from __future__ import annotations

import pytest

from shards.order import messages
from shards.order.messages import Batch, Begin, In, Out, Void, decode_message, encode_init, init_of
from shards.order.order import NameTaken
from shards.order.proposer import (
    BYTES_IN_FLIGHT,
    DOUBT_S,
    MOST_IN_FLIGHT,
    PROBE_S,
    RESEND_S,
    Proposer,
)
from shards.order.replica import Replica
from tests.cluster.fake_order import FakeOrder, FakeStream

SESSION = 77


class Bench:
    """A proposer of node a on an order whose every step the test decides."""

    def __init__(self) -> None:
        self.now = 100.0
        self.stream = FakeStream(by_itself=False)
        self.stream.append(encode_init(init_of("store", "epoch", 1, ["a", "b"], {})))
        self.order: FakeOrder = self.stream.join("a")
        self.order.open(0, None)
        self.replica = Replica()
        self.proposer = Proposer("a", SESSION, 0)
        self.came_back: list[int] = []

    def sent(self) -> list[int]:
        """Let the proposer send; return the counters of what it has sent."""
        before = len(self.stream.held)
        self.proposer.exchange(self.order, self.now)
        return [self.counter(index) for index in range(before, len(self.stream.held))]

    def counter(self, index: int) -> int:
        envelope = decode_message(self.stream.held[index].payload).envelope
        assert envelope
        return envelope.counter

    def accept(self, count: int = 1) -> None:
        for _ in range(count):
            self.stream.accept(0)
        self.take()

    def take(self) -> None:
        for message in self.order.take(1000):
            effect = self.replica.deliver(message)
            assert effect
            ticket = self.proposer.observe(effect, self.now)
            if ticket is not None:
                self.came_back.append(ticket)

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    assert bench.sent() == [0]
    bench.accept()
    assert bench.proposer.begun
    return bench


def test_nothing_is_sent_before_the_begin_is_back() -> None:
    bench = Bench()
    bench.proposer.propose(b"early")
    assert not bench.proposer.is_free
    assert bench.sent() == [0]
    assert bench.sent() == []
    assert bench.proposer.wait_s(bench.now) == RESEND_S
    bench.wait(RESEND_S)
    assert bench.sent() == [0]
    bench.accept(2)
    assert bench.proposer.begun
    assert bench.sent() == [1]


def test_a_begin_names_the_session_of_a_former_process() -> None:
    bench = Bench()
    bench.stream.append(messages.encode_message(1, "a", 5, 0, Begin(0)))
    assert bench.sent() == [0]
    bench.accept()
    assert not bench.proposer.begun, "it named no session, but there is one"
    assert bench.sent() == [0]
    bench.accept()
    assert bench.proposer.begun
    assert bench.replica.state.sessions["a"].session == SESSION


def test_another_process_of_this_name_ends_this_one(bench: Bench) -> None:
    bench.stream.append(messages.encode_message(1, "a", 5, 0, Begin(SESSION)))
    with pytest.raises(NameTaken, match="own --node"):
        bench.take()


def test_groups_come_back_by_their_tickets(bench: Bench) -> None:
    first, second = bench.proposer.propose(b"first"), bench.proposer.say(In())
    assert bench.sent() == [1, 2]
    assert bench.proposer.in_flight == 2
    bench.accept(2)
    assert bench.came_back == [first, second]
    assert bench.proposer.in_flight == 0
    assert bench.proposer.wait_s(bench.now) == float("inf")


def test_a_ticket_comes_back_with_the_last_part(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MESSAGE_BYTES", 4)
    ticket = bench.proposer.propose(b"in parts")
    assert bench.sent() == [1, 2]
    bench.accept()
    assert bench.came_back == []
    bench.accept()
    assert bench.came_back == [ticket]


def test_only_so_many_messages_are_on_their_way(bench: Bench) -> None:
    for number in range(MOST_IN_FLIGHT - 1):
        bench.proposer.propose(b"%d" % number)
    assert bench.proposer.is_free
    bench.proposer.propose(b"one more")
    assert not bench.proposer.is_free
    bench.proposer.propose(b"too many")
    assert bench.sent() == list(range(1, MOST_IN_FLIGHT + 1))
    assert bench.sent() == []
    bench.accept()
    assert bench.sent() == [MOST_IN_FLIGHT + 1]


def test_only_so_many_bytes_are_on_their_way(bench: Bench) -> None:
    size = messages.MESSAGE_BYTES
    for _ in range(MOST_IN_FLIGHT):
        bench.proposer.propose(bytes(size))
    places = -(-BYTES_IN_FLIGHT // size)
    assert bench.sent() == list(range(1, places + 1))


def test_the_first_is_sent_again_alone_and_the_rest_when_it_is_back(bench: Bench) -> None:
    for number in range(3):
        bench.proposer.propose(b"%d" % number)
    assert bench.sent() == [1, 2, 3]
    bench.stream.held.clear()  # all are lost
    bench.wait(RESEND_S - 0.01)
    assert bench.sent() == []
    bench.wait(0.01)
    assert bench.sent() == [1]
    bench.proposer.propose(b"new")
    assert bench.sent() == [], "nothing new is sent while it is not known whether the order takes anything"
    bench.accept()
    assert bench.sent() == []
    bench.wait(DOUBT_S)
    assert bench.sent() == [2, 3, 4]
    assert bench.proposer.resent == 3
    bench.accept(3)
    assert bench.proposer.in_flight == 0


def test_what_is_known_not_to_be_taken_is_tried_sooner(bench: Bench) -> None:
    bench.proposer.propose(b"refused")
    assert bench.sent() == [1]
    bench.stream.refuse(0)
    assert bench.sent() == []
    assert bench.proposer.wait_s(bench.now) == pytest.approx(PROBE_S)
    bench.wait(PROBE_S)
    assert bench.sent() == [1]


def test_a_gap_has_all_sent_again_at_once(bench: Bench) -> None:
    for number in range(3):
        bench.proposer.propose(b"%d" % number)
    assert bench.sent() == [1, 2, 3]
    bench.stream.drop(0)
    bench.accept(2)
    assert bench.came_back == []
    assert bench.proposer.wait_s(bench.now) == 0
    assert bench.sent() == [1, 2, 3]
    bench.accept(3)
    assert bench.came_back == [1, 2, 3]


def test_what_waits_or_was_refused_can_be_withdrawn(bench: Bench) -> None:
    tickets = [bench.proposer.propose(b"%d" % number) for number in range(MOST_IN_FLIGHT + 1)]
    assert bench.proposer.withdraw(tickets[-1]), "it was never sent"
    assert not bench.proposer.withdraw(tickets[-1])
    bench.sent()
    assert not bench.proposer.withdraw(tickets[0]), "it may be taken"
    bench.stream.refuse(0)
    bench.sent()
    assert bench.proposer.withdraw(tickets[0])
    bench.stream.held.clear()
    bench.wait(PROBE_S)
    assert bench.sent() == [1]
    envelope = decode_message(bench.stream.held[0].payload).envelope
    assert envelope and envelope.content == Void()
    bench.accept()
    assert bench.came_back == []


def test_what_came_back_cannot_be_withdrawn(bench: Bench) -> None:
    ticket = bench.proposer.propose(b"done")
    bench.sent()
    bench.accept()
    assert not bench.proposer.withdraw(ticket)
    assert not bench.proposer.withdraw(12345)


def test_messages_of_others_do_not_matter(bench: Bench) -> None:
    bench.stream.append(messages.encode_message(1, "b", 5, 0, Begin(0)))
    bench.stream.append(messages.encode_message(1, "b", 5, 1, Out("a", 1)))
    bench.stream.append(messages.encode_message(1, "a", 5, 9, Batch(b"of a former process")))
    bench.stream.append(b"\x01")
    bench.take()
    assert bench.came_back == []


def test_what_is_proposed_has_the_level_that_is_set(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "LEVEL", 3)
    bench.proposer.level = 3
    bench.proposer.propose(b"new")
    bench.sent()
    assert bench.stream.held[0].payload[0] == 3


def test_a_group_that_is_too_large_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError):
        bench.proposer.propose(bytes(messages.GROUP_BYTES + 1))
    assert bench.sent() == []


def test_nothing_is_counted_as_sent_that_the_order_does_not_take(bench: Bench) -> None:
    ticket = bench.proposer.propose(b"first")
    bench.order.is_open = False
    assert bench.sent() == []
    assert bench.proposer.withdraw(ticket)
    bench.order.is_open = True
    bench.wait(PROBE_S)
    assert bench.sent() == [1]
