"""Three machines on one order: nothing that goes wrong breaks an invariant, and each rule is needed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.order import messages
from shards.order.membership import Clocks, Membership
from shards.order.order import NameTaken
from shards.order.proposer import Proposer
from shards.order.replica import Replica
from tests.effort import times
from tests.unit.shards.order.machines import NEWER, Cluster, Machine, play
from tests.unit.shards.order.mutants import Mutant, apply
from tests.unit.shards.order.scenarios import SCENARIOS, play_scenario

PHASES = 12
SEEDS_FOR_MUTANTS = 60

MUTANTS = [
    Mutant(
        "a message of another session counts",
        Replica,
        "_follow",
        "(envelope.session, envelope.counter) != (session.session, session.counter + 1)",
        "envelope.counter != session.counter + 1",
    ),
    Mutant(
        "a message counts twice",
        Replica,
        "_follow",
        "(envelope.session, envelope.counter) != (session.session, session.counter + 1)",
        "envelope.session != session.session or envelope.counter > session.counter + 1",
    ),
    Mutant(
        "a message overtakes a lost one",
        Replica,
        "_follow",
        "(envelope.session, envelope.counter) != (session.session, session.counter + 1)",
        "envelope.session != session.session or envelope.counter <= session.counter",
    ),
    Mutant("a begin replaces any session", Replica, "_begin", "begin.replaces != current or ", ""),
    Mutant(
        "a begin counts twice",
        Replica,
        "_begin",
        "begin.replaces != current or envelope.session in (0, current)",
        "False",
    ),
    Mutant("a fenced process leaves its parts", Replica, "_begin", "self._forget_parts(last)", "parts = last.parts"),
    Mutant(
        "a node votes twice",
        Replica,
        "_vote",
        "if voter not in member.votes:",
        "if True:",
    ),
    Mutant("one vote is enough", Replica, "_vote", ">= self.state.votes_to_put_out", ">= 1"),
    Mutant("a vote against a former membership counts", Replica, "_vote", "or member.entered != vote.entered", ""),
    Mutant(
        "the order's time goes back",
        Replica,
        "deliver",
        "max(state.time_ms, counted_ms(message.time_ms))",
        "message.time_ms",
    ),
    Mutant(
        "a restart forgets parts",
        Replica,
        "__init__",
        "min(waiting, default=self.state.sequence + 1)",
        "self.state.sequence + 1",
    ),
    Mutant("nothing is sent again", Proposer, "_wait_for", "RESEND_S if first.doubts else PROBE_S", "1e9"),
    Mutant("what is in doubt is withdrawn", Proposer, "withdraw", "or flights[-1].doubts", ""),
    Mutant("a first part is withdrawn alone", Proposer, "_withdraw_waiting", "if begun:", "if False:"),
    Mutant(
        "a begin is not tried with the session of now",
        Proposer,
        "_observe_begin",
        "self._begin_again(effect.session)",
        "pass",
    ),
    Mutant(
        "a node asks before it has begun",
        Membership,
        "_has_begun",
        "session is not None and session.session == self.session",
        "True",
    ),
    Mutant(
        "a node grants while its vote is on its way",
        Membership,
        "_grant",
        " or self._voted.get(node) == member.entered",
        "",
    ),
    Mutant("a node grants while its vote stands", Membership, "_grant", "self.node in member.votes or ", ""),
    Mutant("a node votes before grants have ended", Membership, "_is_silent", "> SILENCE_S", "> 0.2"),
    Mutant(
        "entering does not count as a grant",
        Membership,
        "observe",
        "self._granted_to[effect.node] = self._listened_s",
        "pass",
    ),
    Mutant("one clock is enough", Clocks, "is_before", " and self.real_s < other.real_s", ""),
    Mutant(
        "a lease begins when it is granted",
        Membership,
        "_take_grant",
        "newest[needed - 1].after(LEASE_S)",
        "self._now.after(LEASE_S)",
    ),
    Mutant("clocks are believed after a jump", Membership, "look", "> JUMP_S", "> 1e9"),
    Mutant("what the others lack is shown", Membership, "stable", "min((state.sequence, *others))", "state.sequence"),
    Mutant(
        "what is not applied here is shown",
        Membership,
        "stable",
        "min((state.sequence, *others))",
        "min((1 << 60, *others))",
    ),
    Mutant(
        "a node that has just begun takes what it did not hear for silence",
        Membership,
        "_see_whether_it_listens",
        "not self._has_begun(state) or ",
        "",
    ),
    Mutant(
        "a node that was held up takes what it did not hear for silence", Membership, "look", ", LISTEN_S)", ", 1e9)"
    ),
    Mutant(
        "a node that is cut off takes it for the silence of all",
        Membership,
        "_see_whether_it_listens",
        " or len(heard) + 1 < state.votes_to_put_out",
        "",
    ),
    Mutant(
        "new rules hold when the members know them",
        Membership,
        "level",
        "for node in state.nodes",
        "for node in state.members",
    ),
    Mutant(
        "who has not said what it knows knows all",
        Membership,
        "level",
        "self.peers[node].level if",
        "self.peers[node].level or 9 if",
    ),
    Mutant(
        "a node that does not know the others goes by its own rules",
        Membership,
        "level",
        " if state.nodes else state.level",
        "",
    ),
    Mutant("who was not heard knows all", Membership, "level", "else 0 for", "else 9 for"),
    Mutant("a node does not enter again", Membership, "wants_in", "(member and not member.votes)", "member"),
    Mutant("a node that was put out stays out", Membership, "observe", "self._enters = None", "pass"),
]


@pytest.fixture(scope="module", autouse=True)
def small_parts() -> Iterator[None]:
    """Groups of a few dozen bytes travel in parts, and this version reads what a newer one proposes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "MESSAGE_BYTES", 16)
        patch.setattr(messages, "LEVEL", NEWER)
        yield


@given(st.integers(0, 1 << 40))
@settings(max_examples=times(60))
def test_whatever_goes_wrong_no_invariant_is_broken(seed: int) -> None:
    play(random.Random(seed), PHASES)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_rare_things_break_no_invariant(scenario: Callable[[Cluster], None]) -> None:
    play_scenario(scenario)


@given(st.integers(0, 1 << 40))
@settings(max_examples=times(20))
def test_of_two_processes_with_one_name_the_last_to_begin_goes_on(seed: int) -> None:
    """Whatever the two propose has effect at most once. (A lock keeps them from reading the same data.)"""
    choice = random.Random(seed)
    cluster = Cluster()
    try:
        cluster.settle()
        first = cluster["a"]
        twin = Machine(cluster, "a")
        twin.kept, twin.log = list(first.machine.kept), list(first.machine.log)
        twin.start()
        assert twin.process
        second, ended = twin.process, False
        for _ in range(400):
            cluster.now += choice.choice((0.0, 0.05))
            process = choice.choice((first, second, cluster["b"], cluster["c"]))
            if process is not first or not ended:
                if process.proposer.in_flight < 5:
                    process.propose(choice.choice((0, 30)))
                try:
                    process.turn(choice.choice((1, 50)))
                except NameTaken:
                    assert process is first
                    ended = True
            if cluster.stream.held:
                cluster.stream.accept(choice.randrange(len(cluster.stream.held)), double=choice.random() < 0.2)
            cluster.check_groups([token for _, token in cluster["b"].log])
        assert ended and second.proposer.begun
        twin.kill()
    finally:
        cluster.close()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_rule_left_out_is_noticed(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(mutant, monkeypatch)
    with pytest.raises(Exception):  # noqa: B017  # an invariant, or a machine that cannot go on
        for scenario in SCENARIOS:
            play_scenario(scenario)
        for seed in range(SEEDS_FOR_MUTANTS):
            play(random.Random(seed), PHASES)
