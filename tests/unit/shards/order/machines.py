"""Three machines on one order, in one thread and with clocks of the test: whatever may go wrong, at any step.

After every action the invariants of a cluster are checked:

- Each machine has applied a prefix of the order, and after a message all have the same state.
- A group has effect at most once, in the order its process proposed it, and none is left out.
- What was withdrawn has no effect.
- Whoever may read has applied everything that anybody has shown.
- No message is of a level that some machine does not understand, whose version may be older than that of another.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import NamedTuple

from shards.order.membership import Clocks, Membership
from shards.order.messages import Batch, In, decode_tidings, encode_init, encode_tidings, init_of
from shards.order.proposer import Proposer
from shards.order.replica import Replica, decode_state, encode_state
from tests.cluster.fake_order import FakeOrder, FakeStream

NODES = ("a", "b", "c")
START_S = 1000.0
OLDER, NEWER = 1, 2
"""Levels of messages; a test lets this version read both."""


class Kept(NamedTuple):
    """What a machine has on its disk: its state, and how much of its log belongs to that."""

    state: bytes
    groups: int


class Process:
    """One process of a machine, from its start to its end."""

    def __init__(self, cluster: Cluster, machine: Machine) -> None:
        self.cluster, self.machine, self.node = cluster, machine, machine.node
        self.session = next(cluster.sessions)
        self.replica = Replica(decode_state(machine.kept[-1].state)) if machine.kept else Replica()
        state = self.replica.state
        known = state.sessions.get(self.node)
        self.proposer = Proposer(self.node, self.session, known.session if known else 0)
        self.membership = Membership(self.node, self.session, machine.clocks(), machine.level)
        self.order: FakeOrder = cluster.stream.join(self.node)
        self.order.open(self.replica.resume_after, None)
        self.log = machine.log[: machine.kept[-1].groups] if machine.kept else []
        self.tickets: dict[int, str] = {}
        self.proposed = self.time_ms = 0

    @property
    def applied(self) -> int:
        return self.replica.state.sequence

    def may_read(self) -> bool:
        return self.membership.may_read(self.machine.clocks())

    def propose(self, size: int) -> None:
        """Propose a group, in several parts if `size` says so."""
        self.proposed += 1
        token = f"{self.node}.{self.session}.{self.proposed}"
        self.cluster.proposed[self.session].append(token)
        self.tickets[self.proposer.propose(token.encode() + b"+" * size)] = token

    def withdraw(self) -> None:
        """Withdraw all that can be withdrawn."""
        for ticket, token in list(self.tickets.items()):
            if self.proposer.withdraw(ticket):
                self.cluster.withdrawn.add(token)
                del self.tickets[ticket]

    def turn(self, most: int, deaf_to: Collection[str] = ()) -> None:
        """Do what a shard's loop does in one turn, with so many messages at most; tidings of `deaf_to` are lost."""
        state, now = self.replica.state, self.machine.clocks()
        self.proposer.exchange(self.order, self.cluster.now)
        for node, payload in self.order.told():
            if node in deaf_to:
                continue
            tidings = decode_tidings(payload)
            assert tidings is not None
            grant = self.membership.hear(node, tidings, now, state)
            if grant:
                self.order.tell(encode_tidings(grant))
        before = self.applied
        for message in self.order.take(most):
            assert message.payload[0] <= self.machine.level, f"{self.node} does not understand a message, and stops"
            effect = self.replica.deliver(message)
            if effect is None:
                continue
            if isinstance(effect.content, Batch):
                self.log.append((effect.sequence, effect.content.operations.rstrip(b"+").decode()))
            self.membership.observe(effect, now)
            ticket = self.proposer.observe(effect, self.cluster.now)
            self.tickets.pop(ticket or 0, None)
            self.cluster.check_state(self, effect.sequence)
        if self.applied > before:
            self._keep()
            applied = self.membership.applied(state)
            if applied:
                self.order.tell(encode_tidings(applied))
        self._look_after_members(now)

    def _look_after_members(self, now: Clocks) -> None:
        state = self.replica.state
        ask = self.membership.ask(now, state)
        if ask:
            self.order.tell(encode_tidings(ask))
        for vote in self.membership.votes(now, state):
            self.proposer.say(vote)
        if self.proposer.begun and self.membership.wants_in(state):
            self.proposer.say(In())
        self.proposer.level = self.membership.level(state)
        self.cluster.shown = max(self.cluster.shown, self.membership.stable(state))

    def _keep(self) -> None:
        self.machine.log = self.log
        self.machine.kept.append(Kept(encode_state(self.replica.state), len(self.log)))


class Machine:
    """A machine: its clocks, its disk, and its process while that runs.

    Attributes:
        level: the highest level of messages that its version understands.
    """

    def __init__(self, cluster: Cluster, node: str) -> None:
        self.cluster, self.node = cluster, node
        self.boot_s = self.real_s = START_S  # by how much its clocks are ahead of the true time
        self.level = OLDER
        self.kept: list[Kept] = []
        self.log: list[tuple[int, str]] = []
        self.process: Process | None = None
        self._suspended_at: float | None = None

    @property
    def is_suspended(self) -> bool:
        return self._suspended_at is not None

    def suspend(self) -> None:
        """Stop the whole machine, as one does with a virtual one: its boot clock stands still."""
        self._suspended_at = self.cluster.now

    def wake_up(self) -> None:
        """Let it go on; its real-time clock is set."""
        if self._suspended_at is not None:
            self.boot_s -= self.cluster.now - self._suspended_at
            self._suspended_at = None

    def clocks(self) -> Clocks:
        return Clocks(self.cluster.now + self.boot_s, self.cluster.now + self.real_s)

    def start(self) -> None:
        if not self.process:
            self.process = Process(self.cluster, self)

    def kill(self, lose: int = 0) -> None:
        """Kill the process; so many of its last turns were not on the disk yet."""
        if self.process:
            self.process.order.close()
            self.process = None
            if lose:
                self.kept = self.kept[:-lose]


class Cluster:
    """Three machines and their order.

    Attributes:
        now: the true time, in seconds.
        shown: the highest sequence that a machine has shown, or answered for.
        proposed: tokens of groups, by session, in their order.
        withdrawn: those of them that their process has given up.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.stream = FakeStream(by_itself=False, now_ms=self._stamp)
        self._stamps = random.Random(1)
        self.stream.append(encode_init(init_of("store", "epoch", 1, NODES, {})))
        self.sessions = itertools.count(1)
        self.machines = {node: Machine(self, node) for node in NODES}
        self.shown = 0
        self.proposed: dict[int, list[str]] = defaultdict(list)
        self.withdrawn: set[str] = set()
        self._states: dict[int, bytes] = {}
        for machine in self.machines.values():
            machine.start()

    @property
    def processes(self) -> list[Process]:
        return [machine.process for machine in self.machines.values() if machine.process]

    def close(self) -> None:
        for machine in self.machines.values():
            machine.kill()

    def _stamp(self) -> int:
        """The order's clock, which another server's may be behind."""
        return 1_700_000_000_000 + int(self.now * 1000) - self._stamps.randrange(100)

    # Checks.

    def check_state(self, process: Process, sequence: int) -> None:
        """What the messages up to `sequence` make is the same everywhere, and time goes on."""
        assert process.replica.state.time_ms >= process.time_ms, "time has gone back"
        process.time_ms = process.replica.state.time_ms
        state = encode_state(process.replica.state)
        assert self._states.setdefault(sequence, state) == state, f"states differ after message {sequence}"

    def check(self) -> None:
        for process in self.processes:
            state = process.replica.state
            assert process.applied <= len(self.stream.messages)
            assert process.replica.kept_parts <= {s for x in state.sessions.values() for s in x.parts}
            if process.may_read() and not process.machine.is_suspended:
                assert process.applied >= self.shown, f"{process.node} may read, but lacks what was shown"
        longest = max((process.log for process in self.processes), key=len, default=[])
        for process in self.processes:
            assert process.log == longest[: len(process.log)], "logs differ"
        self.check_groups([token for _, token in longest])

    def check_groups(self, tokens: list[str]) -> None:
        assert len(set(tokens)) == len(tokens), "a group had effect twice"
        assert not self.withdrawn & set(tokens), "what was withdrawn had effect"
        done: dict[int, list[str]] = defaultdict(list)
        for token in tokens:
            done[int(token.split(".")[1])].append(token)
        for session, had_effect in done.items():
            meant = [token for token in self.proposed[session] if token not in self.withdrawn]
            assert had_effect == meant[: len(had_effect)], "a group was left out, or overtaken"

    def run(
        self,
        seconds: float,
        nodes: Iterable[str] = NODES,
        *,
        lagging: str = "",
        deaf: str = "",
        deaf_to: str = "abc",
        mute: str = "",
    ) -> None:
        """Let `nodes` do their work, and the order take what is proposed at once.

        lagging: nodes that get no messages; deaf: nodes that hear no tidings of `deaf_to`; mute: nodes whose proposals
        are lost.
        """
        end = self.now + seconds
        while self.now < end:
            self.now += 0.05
            for process in self.processes:
                if process.node in nodes:
                    process.turn(0 if process.node in lagging else 50, deaf_to if process.node in deaf else "")
                    self.check()
            while self.stream.held:
                (self.stream.drop if self.stream.held[0].order.node in mute else self.stream.accept)(0)

    def __getitem__(self, node: str) -> Process:
        """The process of `node`, which runs."""
        process = self.machines[node].process
        assert process
        return process

    def settle(self) -> None:
        """Let all be well from now on; then all is done, and all machines may read."""
        for machine in self.machines.values():
            machine.wake_up()
            machine.start()
        for _ in range(400):
            self.now += 0.05
            for process in self.processes:
                process.turn(50)
            while self.stream.held:
                self.stream.accept(0)
            self.check()
            if self._is_settled():
                return
        raise AssertionError(f"the cluster does not settle: {self._why()}")

    def _is_settled(self) -> bool:
        return not self._why()

    def _why(self) -> list[str]:
        """What is still to come."""
        end = len(self.stream.messages)
        return [
            f"{process.node}: {why}"
            for process in self.processes
            for why, is_so in (
                ("behind", process.applied < end),
                ("in flight", process.proposer.in_flight > 0),
                ("not begun", not process.proposer.begun),
                ("may not read", not process.may_read()),
                ("members", set(process.replica.state.members) != set(NODES)),
                ("votes", any(member.votes for member in process.replica.state.members.values())),
            )
            if is_so
        ]


class Phase(NamedTuple):
    """What goes wrong for a while: nodes that are stopped, that get no messages, that hear no tidings of some others;
    whether what is proposed is held up, reordered, lost and doubled."""

    stopped: frozenset[str] = frozenset()
    lagging: frozenset[str] = frozenset()
    deaf: frozenset[str] = frozenset()
    deaf_to: frozenset[str] = frozenset()
    held: bool = False
    harsh: bool = False


def some(choice: random.Random) -> frozenset[str]:
    """Mostly none, or one, of the nodes."""
    return frozenset(choice.sample(NODES, choice.choice((0, 0, 0, 1, 1, 2))))


def begin_phase(cluster: Cluster, choice: random.Random) -> Phase:
    """Let other things go wrong from now on."""
    for machine in cluster.machines.values():
        machine.wake_up()
    node = choice.choice(NODES)
    machine, what = cluster.machines[node], choice.random()
    if what < 0.15:
        machine.kill(lose=choice.choice((0, 0, 1, 3)))
        machine.level = choice.choice((machine.level, NEWER))  # what it is started with
    elif what < 0.40:
        for stopped in cluster.machines.values():
            stopped.start()
    elif what < 0.45:
        machine.real_s += choice.choice((-3600.0, -2.0, 2.0, 3600.0))  # somebody sets its clock
    elif what < 0.55:
        machine.suspend()
    elif what < 0.60 and machine.process:
        machine.process.withdraw()
    if choice.random() < 0.3:
        return Phase()
    deaf_to = frozenset(choice.sample(NODES, choice.choice((1, 3, 3))))
    held, harsh = choice.random() < 0.3, choice.random() < 0.5
    return Phase(some(choice), some(choice), some(choice), deaf_to, held=held, harsh=harsh)


def act(cluster: Cluster, phase: Phase, choice: random.Random) -> None:
    """Do one thing to a cluster, as chance has it."""
    node = choice.choice(NODES)
    process, stream, what = cluster.machines[node].process, cluster.stream, choice.random()
    if what < 0.5:
        if process and node not in phase.stopped and not cluster.machines[node].is_suspended:
            deaf_to = phase.deaf_to if node in phase.deaf else ()
            process.turn(0 if node in phase.lagging else choice.choice((1, 50, 50)), deaf_to)
    elif what < 0.65:
        cluster.now += choice.choice((0.01, 0.1, 0.2, 0.3))
    elif what < 0.75:
        if process and process.proposer.in_flight < 20:
            process.propose(choice.choice((0, 0, 0, 30)))
    elif not phase.held:
        while stream.held and not phase.harsh:
            stream.accept(0)
        if stream.held:
            held = choice.randrange(len(stream.held))
            fate = choice.random()
            if fate < 0.7:
                stream.accept(held, double=choice.random() < 0.2)
            elif fate < 0.8:
                stream.refuse(held)
            elif fate < 0.9:
                stream.drop(held)


def play(choice: random.Random, phases: int) -> None:
    """Let a new cluster live through so many phases, and settle; every step is checked."""
    cluster = Cluster()
    try:
        for _ in range(phases):
            phase = begin_phase(cluster, choice)
            for _ in range(choice.choice((5, 20, 60, 120))):
                act(cluster, phase, choice)
                cluster.check()
        cluster.settle()
    finally:
        cluster.close()
