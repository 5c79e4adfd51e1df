"""Who may read, and until when; who is put out."""

from __future__ import annotations

import pytest

from shards.order.membership import ASK_S, JUMP_S, LEASE_S, LISTEN_S, SILENCE_S, Clocks, Membership
from shards.order.messages import LEVEL, Applied, Ask, Grant, In, Out, init_of
from shards.order.replica import Effect, Member, Session, State

NOW = Clocks(1000.0, 5000.0)


def state_of(nodes: str = "abc", members: dict[str, Member] | None = None) -> State:
    """A state in which each node has begun, as the session of its place, and is a member since message 10."""
    return State(
        sequence=50,
        init=init_of("store", "epoch", 1, list(nodes), {}),
        sessions={node: Session(place) for place, node in enumerate(nodes, 1)},
        members={node: Member(10) for node in nodes} if members is None else members,
    )


def ask_of(now: Clocks, entered: int = 10, applied: int = 50, **others: object) -> Ask:
    facts = {"wall_ms": int(now.real_s * 1000), "spare": True, "level": LEVEL, "sequence": 0, "hash": b""} | others
    return Ask(entered, applied, now.boot_s, now.real_s, **facts)  # type: ignore[arg-type]


@pytest.fixture
def a() -> Membership:
    return Membership("a", 1, NOW)


def test_a_node_asks_every_so_often(a: Membership) -> None:
    state = state_of()
    first = a.ask(NOW, state, spare=False, checkpoint=(64, b"hash"))
    assert first == Ask(10, 50, NOW.boot_s, NOW.real_s, 5_000_000, False, LEVEL, 64, b"hash")
    assert a.ask(NOW.after(ASK_S - 0.01), state) is None
    assert a.wait_s(NOW.after(0.1)) == pytest.approx(ASK_S - 0.1)
    assert a.ask(NOW.after(ASK_S), state) is not None


def test_a_node_says_nothing_before_it_has_begun() -> None:
    former = Membership("a", 9, NOW)
    assert former.ask(NOW, state_of()) is None
    assert former.applied(state_of()) is None
    assert former.hear("b", ask_of(NOW), NOW, state_of()) is None
    assert former.votes(NOW.after(10), state_of()) == []
    assert not former.wants_in(state_of(members={}))


def test_a_grant_lets_a_node_read_from_when_it_asked(a: Membership) -> None:
    state = state_of()
    asked = NOW.after(0.5)
    a.look(NOW.after(0.9))
    assert a.hear("b", Grant("a", 10, *asked), NOW.after(0.9), state) is None
    assert a.lease_until == asked.after(LEASE_S)
    assert a.may_read(asked.after(LEASE_S - 0.01))
    assert not a.may_read(asked.after(LEASE_S))
    assert not a.may_read(Clocks(asked.boot_s, asked.real_s + LEASE_S))
    assert not a.may_read(Clocks(asked.boot_s + LEASE_S, asked.real_s))
    a.hear("c", Grant("a", 10, *NOW), NOW.after(0.9), state)
    assert a.lease_until == asked.after(LEASE_S), "an older one takes nothing away"


@pytest.mark.parametrize(
    "grant",
    [Grant("b", 10, *NOW), Grant("a", 9, *NOW), Grant("a", 0, *NOW), Grant("a", 10, NOW.boot_s - 1, NOW.real_s - 1)],
    ids=["to another", "of another membership", "of none", "asked by a former process"],
)
def test_other_grants_do_not_count(a: Membership, grant: Grant) -> None:
    a.hear("b", grant, NOW, state_of())
    assert not a.may_read(NOW)


def test_five_nodes_need_two_grants(a: Membership) -> None:
    state = state_of("abcde")
    a.hear("b", Grant("a", 10, *NOW.after(0.2)), NOW.after(0.2), state)
    assert not a.may_read(NOW.after(0.2))
    a.hear("c", Grant("a", 10, *NOW.after(0.1)), NOW.after(0.2), state)
    assert a.lease_until == NOW.after(0.1).after(LEASE_S)


@pytest.mark.parametrize("nodes", ["a", "ab"])
def test_where_nobody_can_be_put_out_no_grant_is_needed(a: Membership, nodes: str) -> None:
    a.ask(NOW, state_of(nodes))
    assert a.may_read(NOW)
    outside = Membership("a", 1, NOW)
    outside.ask(NOW, state_of(nodes, {}))
    assert not outside.may_read(NOW)


def test_a_node_grants_what_names_the_membership_that_it_knows(a: Membership) -> None:
    asked = ask_of(NOW.after(-3))
    assert a.hear("b", asked, NOW, state_of()) == Grant("b", 10, asked.boot_s, asked.real_s)
    assert a.hear("b", ask_of(NOW, entered=9), NOW, state_of()) is None
    assert a.hear("b", ask_of(NOW, entered=0), NOW, state_of(members={})) is None
    assert a.hear("a", asked, NOW, state_of()) is None
    assert a.hear("x", asked, NOW, state_of()) is None
    assert a.hear("b", asked, NOW, state_of(members={"b": Member(10, ["a"])})) is None, "its vote stands"
    assert a.hear("b", asked, NOW, state_of(members={"b": Member(10, ["c"])})) is not None


def votes_within(membership: Membership, begun: Clocks, seconds: float, state: State, hears: str = "") -> list[Out]:
    """Its first votes within `seconds` of `begun`, while it looks every tenth of a second, and hears `hears`."""
    for tenth in range(round(seconds * 10) + 1):
        now = begun.after(tenth / 10)
        for node in hears:
            membership.hear(node, Applied(50), now, state)
        if votes := membership.votes(now, state):
            return votes
    return []


def test_a_node_votes_once_against_the_silent_and_grants_them_nothing(a: Membership) -> None:
    state = state_of()
    a.hear("b", ask_of(NOW), NOW.after(0.1), state)
    assert votes_within(a, NOW.after(0.1), SILENCE_S - 0.1, state, "b") == []
    assert a.votes(NOW.after(SILENCE_S + 0.05), state) == [Out("c", 10)]
    assert a.votes(NOW.after(SILENCE_S + 0.15), state) == [Out("b", 10)]
    late = NOW.after(1.8)
    assert a.votes(late, state) == []
    assert a.hear("b", ask_of(late), late, state) is None
    a.observe(Effect(60, 0, 1, "b", 2, 1, In()), late)
    state.members["b"] = Member(60)
    assert a.hear("b", ask_of(late, entered=60), late, state) is not None
    assert votes_within(a, late, SILENCE_S, state, "b") == []


def test_what_a_node_misses_while_it_is_held_up_is_nobody_s_silence(a: Membership) -> None:
    state = state_of()
    for node in "bc":
        a.hear(node, ask_of(NOW), NOW, state)
    held = NOW.after(60)
    for node in "bc":
        a.hear(node, Applied(50), held, state)
    assert a.votes(held, state) == []
    assert votes_within(a, held, SILENCE_S - LISTEN_S, state, "b") == []
    assert votes_within(a, held.after(SILENCE_S - LISTEN_S), 0.1, state, "b") == [Out("b", 10), Out("c", 10)]


def test_a_node_that_hears_nobody_votes_when_it_has_heard_somebody_for_a_while(a: Membership) -> None:
    state = state_of()
    assert votes_within(a, NOW, 10, state) == []
    assert votes_within(a, NOW.after(10), SILENCE_S, state, "b") == []
    assert votes_within(a, NOW.after(10 + SILENCE_S), 0.2, state, "b") == [Out("b", 10), Out("c", 10)]


def test_a_node_listens_from_when_its_begin_has_come_back(a: Membership) -> None:
    state = state_of()
    state.sessions["a"] = Session(99)
    assert votes_within(a, NOW, 10, state, "bc") == []
    state.sessions["a"] = Session(1)
    assert votes_within(a, NOW.after(10), SILENCE_S, state, "b") == []
    assert votes_within(a, NOW.after(10 + SILENCE_S), 0.2, state, "b") == [Out("b", 10), Out("c", 10)]


def test_a_jump_of_the_clocks_ends_the_lease_and_lets_votes_wait(a: Membership) -> None:
    state = state_of()
    a.hear("b", Grant("a", 10, *NOW), NOW, state)
    a.hear("b", ask_of(NOW), NOW, state)
    later = Clocks(NOW.boot_s + 0.2, NOW.real_s + 0.2 + JUMP_S + 0.01)
    a.look(later)
    assert not a.may_read(NOW)
    a.hear("b", Grant("a", 10, *NOW), later, state)
    assert not a.may_read(later), "it was asked before the jump"
    assert a.ask(later, state) is not None
    assert votes_within(a, later, SILENCE_S, state, "b") == []
    assert len(votes_within(a, later.after(SILENCE_S), 0.2, state, "b")) == 2


def test_a_grant_from_before_a_clock_was_set_back_does_not_outlast_it(a: Membership) -> None:
    """One that was asked for at the very moment of the jump is not older than it by the other clock."""
    state = state_of()
    set_back = Clocks(NOW.boot_s, NOW.real_s - 3600)
    a.look(set_back)
    a.hear("b", Grant("a", 10, *NOW), set_back.after(0.1), state)
    assert not a.may_read(set_back.after(0.1))
    a.hear("b", Grant("a", 10, *set_back.after(0.2)), set_back.after(0.3), state)
    assert a.may_read(set_back.after(0.3))


def test_clocks_that_drift_a_little_are_believed(a: Membership) -> None:
    a.hear("b", Grant("a", 10, *NOW), NOW, state_of())
    a.look(Clocks(NOW.boot_s + 0.5, NOW.real_s + 0.5 + JUMP_S - 0.01))
    assert a.may_read(NOW.after(0.5))


def test_a_node_enters_when_it_is_out_or_somebody_votes_against_it(a: Membership) -> None:
    out, voted = state_of(members={}), state_of(members={"a": Member(10, ["b"])})
    assert a.wants_in(out)
    assert not a.wants_in(out)
    a.observe(Effect(60, 0, 1, "a", 1, 1, In()), NOW)
    assert not a.wants_in(state_of())
    assert a.wants_in(voted)
    assert not a.wants_in(voted)
    a.observe(Effect(70, 0, 1, "a", 1, 2, In()), NOW)
    assert a.wants_in(out)


def test_entering_ends_the_lease(a: Membership) -> None:
    a.hear("b", Grant("a", 10, *NOW), NOW, state_of())
    a.observe(Effect(60, 0, 1, "a", 1, 1, In()), NOW)
    assert not a.may_read(NOW)


def test_a_node_that_leaves_reads_no_more(a: Membership) -> None:
    state = state_of()
    a.hear("b", Grant("a", 10, *NOW), NOW, state)
    assert a.leave(state) == Out("a", 10)
    a.hear("b", Grant("a", 10, *NOW.after(0.1)), NOW.after(0.1), state)
    assert not a.may_read(NOW)
    assert not a.wants_in(state_of(members={}))
    assert a.leave(state_of(members={})) is None


def test_what_all_members_have_is_stable(a: Membership) -> None:
    state = state_of()
    assert a.stable(state) == 0
    a.hear("b", Applied(40), NOW, state)
    a.hear("c", ask_of(NOW, applied=45), NOW, state)
    assert a.stable(state) == 40
    a.hear("b", Applied(39), NOW, state)
    assert a.stable(state) == 40, "what was said later may come first"
    a.hear("b", Applied(90), NOW, state)
    assert (a.stable(state), a.furthest(state)) == (45, 90)
    del state.members["c"]
    assert a.stable(state) == 50


def test_a_level_is_what_all_nodes_understand_and_never_sinks() -> None:
    a = Membership("a", 1, NOW, 3)
    assert a.level(State()) == 1, "it does not know the others"
    state = state_of(members={"a": Member(10)})
    assert a.level(state) == 1
    a.hear("b", ask_of(NOW, level=3), NOW, state)
    a.hear("c", Applied(50), NOW, state)
    assert a.level(state) == 1, "c has not said it"
    a.hear("c", ask_of(NOW, level=2), NOW, state)
    assert a.level(state) == 2
    a.hear("c", ask_of(NOW, level=9), NOW, state)
    assert a.level(state) == 3
    state.level = 7
    assert a.level(state) == 7


def test_what_an_ask_says_is_known(a: Membership) -> None:
    a.hear("b", ask_of(NOW, wall_ms=5_000_700, spare=False, level=3), NOW, state_of())
    health = a.peers["b"]
    assert (health.skew_ms, health.spare, health.level, health.heard) == (700, False, 3, NOW)
