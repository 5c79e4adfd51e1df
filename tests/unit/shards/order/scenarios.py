"""Rare things that happen to three machines on one order; each shows why a rule is needed."""

from __future__ import annotations

from collections.abc import Callable

from shards.order import messages
from tests.unit.shards.order.machines import NEWER, NODES, Cluster


def settled() -> Cluster:
    """Three machines that all may read."""
    cluster = Cluster()
    cluster.settle()
    return cluster


def a_message_comes_after_its_session(cluster: Cluster) -> None:
    """What a killed process had sent is taken when its successor has got as far as that."""
    cluster["a"].propose(0)
    cluster["a"].turn(0)
    (late,) = cluster.stream.held
    cluster.stream.drop(0)
    late_counter = cluster["a"].replica.state.sessions["a"].counter + 1
    cluster.machines["a"].kill()
    cluster.machines["a"].start()
    cluster.run(0.5)
    for _ in range(late_counter):
        if cluster["a"].replica.state.sessions["a"].counter < late_counter - 1:
            cluster["a"].propose(0)
            cluster.run(0.2)
    assert cluster["a"].replica.state.sessions["a"].counter == late_counter - 1
    cluster.stream.append(late.payload)
    cluster["a"].propose(0)


def a_begin_comes_after_the_next_one(cluster: Cluster) -> None:
    """The begin of a killed process is taken after that of its successor."""
    cluster.machines["a"].kill()
    cluster.machines["a"].start()
    cluster["a"].turn(0)
    (late,) = cluster.stream.held
    cluster.stream.drop(0)
    cluster.machines["a"].kill()
    cluster.machines["a"].start()
    cluster.run(0.5)
    cluster.stream.append(late.payload)
    cluster["a"].propose(0)


def a_node_votes_in_two_lives(cluster: Cluster) -> None:
    """b hears nothing of a, votes against it, dies and would vote again. c lets a read, and a gets no messages."""
    for _ in range(4):
        cluster.run(1.0, lagging="a", deaf="b", deaf_to="a")
        cluster.machines["b"].kill()
        cluster.machines["b"].start()
        cluster.run(1.0, lagging="a", deaf="b", deaf_to="a")
        cluster["c"].propose(0)
        cluster.run(0.3, lagging="a", deaf="b", deaf_to="a")


def a_vote_comes_after_the_next_membership(cluster: Cluster) -> None:
    """b and c vote against a, but the vote of c is held up until a has entered again. Later b hears nothing of a."""
    end = cluster.now + 2.0
    while cluster.now < end:
        cluster.now += 0.05
        cluster["b"].turn(50)
        cluster["c"].turn(50)
    votes = {held.order.node: held.payload for held in cluster.stream.held}
    cluster.stream.held.clear()
    cluster.stream.append(votes["b"])
    cluster.run(0.3, "ab")
    cluster.run(1.8, lagging="a", deaf="b", deaf_to="a", mute="c")
    cluster.stream.append(votes["c"])
    cluster["b"].propose(0)
    cluster.run(0.3, "bc")


def a_node_restarts_while_its_vote_stands(cluster: Cluster) -> None:
    """b has voted against a and dies. When it is back, a asks it; then c votes, too."""
    cluster.run(1.8, lagging="a", deaf="b", deaf_to="a")
    cluster.machines["b"].kill()
    cluster.machines["b"].start()
    cluster.run(1.8, lagging="a", deaf="c", deaf_to="a")
    cluster["b"].propose(0)
    cluster.run(0.3, lagging="a", deaf="abc")


def a_node_that_let_another_read_restarts(cluster: Cluster) -> None:
    """c hears nothing of a and votes against it; b has just let it read when it dies, and would vote at once."""
    cluster.run(1.8, lagging="a", deaf="c", deaf_to="a")
    cluster.machines["b"].kill()
    cluster.machines["b"].start()
    cluster["b"].propose(0)
    cluster.run(0.4, "bc")


def a_machine_is_suspended(cluster: Cluster) -> None:
    """a is stopped for so long that it is put out. Its boot clock does not know."""
    cluster.machines["a"].suspend()
    cluster.run(2.5, "bc")
    cluster["b"].propose(0)
    cluster.run(0.5, "bc")
    cluster.machines["a"].wake_up()
    cluster.check()


def a_group_is_withdrawn_half_way(cluster: Cluster) -> None:
    """The first parts of a large group are on their way when it is withdrawn; a group in parts follows."""
    cluster["a"].propose(20 * messages.MESSAGE_BYTES)
    cluster["a"].turn(0)
    cluster["a"].withdraw()
    assert cluster.withdrawn
    cluster["a"].propose(2 * messages.MESSAGE_BYTES)


def a_machine_comes_back_with_less(cluster: Cluster) -> None:
    """a has said that it has a group, and loses the end of its disk. It asks whether it may read."""
    for _ in range(5):
        cluster["a"].propose(0)
        cluster.run(0.2)
    cluster.machines["a"].kill(lose=3)
    cluster.machines["a"].start()
    cluster.run(0.4, lagging="a")


def votes_against_nobody(cluster: Cluster, node: str, begun: int) -> None:
    """Check that since message `begun` a node has put nobody out."""
    for message in cluster.stream.messages[begun:]:
        envelope = messages.decode_message(message.payload).envelope
        is_vote = envelope is not None and envelope.node == node and isinstance(envelope.content, messages.Out)
        assert not is_vote, f"{node} takes its own trouble for the silence of another"


def a_node_starts_late(cluster: Cluster) -> None:
    """The begin of a comes back only after a while, in which it has granted nothing."""
    cluster.machines["a"].kill()
    cluster.run(0.5, "bc")
    begun = len(cluster.stream.messages)
    cluster.machines["a"].start()
    cluster.run(2.5, lagging="a")
    cluster.run(0.05, "a", deaf="a")
    cluster.run(2.0)
    votes_against_nobody(cluster, "a", begun)


def a_node_is_held_up(cluster: Cluster) -> None:
    """What c tells a takes a while, and then a does not get round to anything, for its disk for instance."""
    begun = len(cluster.stream.messages)
    cluster.run(0.7, deaf="a", deaf_to="c")
    cluster.run(0.85, "bc")
    cluster.run(0.05, "a", deaf="a", deaf_to="c")
    cluster.run(2.0)
    votes_against_nobody(cluster, "a", begun)


def a_grant_is_heard_late(cluster: Cluster) -> None:
    """a is stopped when it has been granted to read. The others put it out and go on; then it hears of the grant."""
    heard = cluster["a"].order.heard
    while not any(getattr(messages.decode_tidings(told), "to", "") == "a" for _, told in heard):
        cluster.run(0.05)
        heard = cluster["a"].order.heard
    cluster.run(2.5, "bc")
    cluster["b"].propose(0)
    cluster.run(0.5, "bc")
    cluster.run(0.05, "a", lagging="a")


def a_node_is_cut_off(cluster: Cluster) -> None:
    """a hears nobody, though it is heard, and then one of the others before the other one."""
    begun = len(cluster.stream.messages)
    cluster.run(4.0, deaf="a")
    cluster.run(0.3, deaf="a", deaf_to="c")
    cluster.run(2.0)
    votes_against_nobody(cluster, "a", begun)


def an_older_version_is_put_out_for_a_moment(cluster: Cluster) -> None:
    """a and b are of a newer version; c has not got to it, and is stopped for a while. b has forgotten what c is."""
    for node in "ab":
        cluster.machines[node].kill()
        cluster.machines[node].level = NEWER
        cluster.machines[node].start()
        cluster.run(0.5)
    cluster.run(2.0, "ab")
    assert set(cluster["a"].replica.state.members) == {"a", "b"}
    cluster.machines["b"].kill()
    cluster.machines["b"].start()
    for node in "ab":
        cluster[node].propose(0)
    cluster.run(1.0, "ab")


def an_older_version_says_first_what_it_has(cluster: Cluster) -> None:
    """a is of a newer version, and hears of the others first what they have applied, and not yet what they are."""
    cluster.machines["a"].kill()
    cluster.machines["a"].level = NEWER
    cluster.machines["a"].start()
    for _ in range(4):
        cluster["b"].propose(0)
        cluster["a"].propose(0)
        cluster.run(0.05)


SCENARIOS: list[Callable[[Cluster], None]] = [
    a_message_comes_after_its_session,
    a_begin_comes_after_the_next_one,
    a_node_votes_in_two_lives,
    a_vote_comes_after_the_next_membership,
    a_node_restarts_while_its_vote_stands,
    a_node_that_let_another_read_restarts,
    a_machine_is_suspended,
    a_group_is_withdrawn_half_way,
    a_machine_comes_back_with_less,
    a_node_starts_late,
    a_node_is_held_up,
    a_grant_is_heard_late,
    a_node_is_cut_off,
    an_older_version_is_put_out_for_a_moment,
    an_older_version_says_first_what_it_has,
]


def play_scenario(scenario: Callable[[Cluster], None]) -> None:
    """Let it happen to a new cluster, which settles afterwards."""
    cluster = settled()
    try:
        scenario(cluster)
        cluster.settle()
        assert {process.node for process in cluster.processes} == set(NODES)
    finally:
        cluster.close()
