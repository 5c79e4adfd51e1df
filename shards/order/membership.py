"""Who may read from its own map, and until when; which message all members have; who is put out. Pure.

A member must have applied a message before anybody shows it. So a member that is silent holds up all others until it is
put out of the members, and may be put out only when it surely no longer reads from its map.

- Each `ASK_S` a node asks the others. A **grant** lets it read for `LEASE_S`, counted from when it asked, by its own
  clocks: neither clocks nor delays of others matter, only that clocks run at the same rate.
- A node grants only what names the `In` of the asker that it knows itself: else the asker may be out without knowing.
- It **votes** against a member only when it has *listened* for `SILENCE_S` since its last grant to it, and then grants
  it nothing any more until the member enters again. So when most nodes have voted, all grants of those have ended.
- A lease needs so many grants that not all of them can come from nodes that have not voted.
- An `In` counts as a grant given: a node that enters is not put out at once.

A node must not take its own trouble for the silence of another. So of the time that passes only that counts as
listening

- in which its `Begin` has come back: before that it grants nothing;
- in which it was not held up: of a pause between two looks, for its disk or for want of a processor, `LISTEN_S` counts
  at most, since the tidings of the pause are still to be read;
- in which it hears so many others that their votes and its own put a member out. If not, it is cut off itself, and
  listens anew when it hears them again.

It never counts more than either clock says has passed, so this can delay a vote, but not hasten it.

Rates of clocks: CLOCK_BOOTTIME goes on while a machine sleeps, CLOCK_REALTIME is set after a virtual machine was
stopped. If the two do not advance alike, neither is believed: the lease ends, and votes wait once more.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from shards.order.messages import LEVEL, Applied, Ask, Grant, In, Out
from shards.order.replica import Effect, State

ASK_S: Final = 0.25
"""Between two asks."""
LEASE_S: Final = 1.0
"""For which a grant lets a node read, from when it asked."""
SILENCE_S: Final = 1.5
"""For which a node listens, from its last grant to a member until its vote against it."""
LISTEN_S: Final = 0.25
"""Most of the time between two looks that counts as listening."""
DEAF_S: Final = 1.0
"""From the last tidings of a node until it counts as not heard."""
JUMP_S: Final = 0.1
"""By which two clocks may differ in what they say has passed."""


class Clocks(NamedTuple):
    """One moment by the two clocks of a machine, in seconds."""

    boot_s: float
    real_s: float

    def after(self, seconds: float) -> Clocks:
        """Return the moment so many seconds later."""
        return Clocks(self.boot_s + seconds, self.real_s + seconds)

    def is_before(self, other: Clocks) -> bool:
        """Whether both clocks say so."""
        return self.boot_s < other.boot_s and self.real_s < other.real_s


NEVER: Final = Clocks(0.0, 0.0)


class Health(NamedTuple):
    """What a node had to do with each thing it asked last.

    Attributes:
        heard: when its last tidings came.
        applied: the sequence up to which it has applied the order.
        skew_ms: by how much its clock was ahead of ours, as far as the way of the tidings lets one say.
        spare: whether it has room for what makes data grow.
        level: the highest level of messages that it understands; 0: it has not said.
    """

    heard: Clocks
    applied: int = 0
    skew_ms: int = 0
    spare: bool = True
    level: int = 0


class Membership:
    """What one node knows of the others, by their tidings and the order.

    Every method takes the time and the state of the replica: nothing here reads a clock.

    Args:
        node: the name of this machine.
        session: of this process.
        now: when it began.
        level: the highest level of messages that it understands.

    Attributes:
        peers: how the other nodes are, by name; those that were heard.
        lease_until: until when this node may read: while both clocks are before it.
    """

    def __init__(self, node: str, session: int, now: Clocks, level: int = LEVEL) -> None:
        self.node, self.session, self._level = node, session, level
        self.peers: dict[str, Health] = {}
        self.lease_until = NEVER
        self._now = self._started = now
        self._asked_at = NEVER
        self._listened_s = self._listens_from = 0.0  # in all; when this node last began to listen anew
        self._granted_to: dict[str, float] = {}  # what `_listened_s` was then, by node; an `In` counts
        self._granted_by: dict[str, Clocks] = {}  # from when it counts, by node; of the present `In`
        self._voted: dict[str, int] = {}  # `entered` of the member that this process has voted against, by node
        self._enters: int | None = None  # `entered` of the membership that a proposed `In` is to replace; 0: none
        self._leaving = False

    # Time.

    def look(self, now: Clocks) -> None:
        """Compare the clocks. If they do not agree about what has passed, end the lease and let votes wait anew."""
        passed_boot_s, passed_real_s = now.boot_s - self._now.boot_s, now.real_s - self._now.real_s
        self._listened_s += max(0.0, min(passed_boot_s, passed_real_s, LISTEN_S))
        if abs(passed_real_s - passed_boot_s) > JUMP_S or passed_boot_s < 0:
            self._give_up()
            self._started, self._listens_from = now, self._listened_s
            self._asked_at = NEVER
        self._now = now

    def may_read(self, now: Clocks) -> bool:
        """Whether what this node shows cannot be out of date."""
        return now.is_before(self.lease_until)

    def wait_s(self, now: Clocks) -> float:
        """Return in how many seconds `ask` and `votes` are to be called again."""
        return max(0.0, self._asked_at.boot_s + ASK_S - now.boot_s)

    # Tidings.

    def ask(
        self, now: Clocks, state: State, *, spare: bool = True, checkpoint: tuple[int, bytes] = (0, b"")
    ) -> Ask | None:
        """Return what is to be told to all now; None: nothing. `checkpoint`: see `history`."""
        self.look(now)
        if not self._has_begun(state) or now.boot_s < self._asked_at.boot_s + ASK_S:
            return None
        self._asked_at = now
        wall_ms = int(now.real_s * 1000)
        entered = self._entered(state)
        if entered and not _grants_needed(state) and not self._leaving:  # nobody could ever be put out
            self.lease_until = now.after(LEASE_S)
        return Ask(entered, state.sequence, now.boot_s, now.real_s, wall_ms, spare, self._level, *checkpoint)

    def hear(self, node: str, tidings: Ask | Grant | Applied, now: Clocks, state: State) -> Grant | None:
        """Follow what another node has told; return the grant that is to be told, if one is."""
        if node == self.node or node not in state.nodes:
            return None
        self.look(now)
        health = self.peers.get(node) or Health(now)
        if isinstance(tidings, Grant):
            self.peers[node] = health._replace(heard=now)
            self._take_grant(node, tidings, state)
            return None
        applied = tidings.applied if isinstance(tidings, Ask) else tidings.sequence
        health = health._replace(heard=now, applied=max(health.applied, applied))
        if isinstance(tidings, Applied):
            self.peers[node] = health
            return None
        skew_ms = tidings.wall_ms - int(now.real_s * 1000)
        self.peers[node] = health._replace(skew_ms=skew_ms, spare=tidings.spare, level=tidings.level)
        return self._grant(node, tidings, state)

    def observe(self, effect: Effect, now: Clocks) -> None:
        """Follow a message that counts: an `In` counts as a grant."""
        if isinstance(effect.content, In):
            self._voted.pop(effect.node, None)
            self.look(now)
            self._granted_to[effect.node] = self._listened_s
            if effect.node == self.node:
                self._enters = None
                self._give_up()

    def applied(self, state: State) -> Applied | None:
        """Return what is to be told to all when messages have been applied; None: this process may not say it yet.

        Before its `Begin` has come back it may not have applied what a former process of this node said it had.
        """
        return Applied(state.sequence) if self._has_begun(state) else None

    # What follows.

    def votes(self, now: Clocks, state: State) -> list[Out]:
        """Return the votes that this node must propose now; from then on it grants those members nothing."""
        self.look(now)
        self._see_whether_it_listens(now, state)
        votes = []
        for node, member in state.members.items():
            if node != self.node and self._is_silent(node) and self._voted.get(node) != member.entered:
                self._voted[node] = member.entered
                votes.append(Out(node, member.entered))
        return votes

    def wants_in(self, state: State) -> bool:
        """Whether this node, if it has caught up, must propose to enter: it is out, or somebody has voted against it.

        True once for each such state: the proposal comes back.
        """
        member = state.members.get(self.node)
        if self._leaving or not self._has_begun(state) or (member and not member.votes):
            return False
        if self._enters == self._entered(state):
            return False
        self._enters = self._entered(state)
        return True

    def leave(self, state: State) -> Out | None:
        """Give the lease up for good, because this process ends; return what then puts it out, if it is in.

        That must not be proposed before all readers of this machine go by the lease that is over.
        """
        self._leaving = True
        self._give_up()
        member = state.members.get(self.node)
        return Out(self.node, member.entered) if member else None

    def stable(self, state: State) -> int:
        """Return the sequence up to which every member has applied the order, as far as is known."""
        others = (self.peers[node].applied if node in self.peers else 0 for node in state.members if node != self.node)
        return min((state.sequence, *others))

    def furthest(self, state: State) -> int:
        """Return the highest sequence that anybody has applied: above our own, there is something to fetch."""
        return max((state.sequence, *(health.applied for health in self.peers.values())))

    def level(self, state: State) -> int:
        """Return the level by which to propose: the highest that all nodes understand, but never a lower one again.

        All nodes, not the members alone: one of an older version that was put out for a moment would have to stop. One
        that has not said it counts as one that understands the level of the state and no more; and so do all as long as
        the state does not say who they are.
        """
        known = (self.peers[node].level if node in self.peers else 0 for node in state.nodes if node != self.node)
        return max(state.level, min((self._level, *known))) if state.nodes else state.level

    # Parts.

    def _has_begun(self, state: State) -> bool:
        session = state.sessions.get(self.node)
        return session is not None and session.session == self.session

    def _entered(self, state: State) -> int:
        member = state.members.get(self.node)
        return member.entered if member else 0

    def _give_up(self) -> None:
        self.lease_until = NEVER
        self._granted_by.clear()

    def _see_whether_it_listens(self, now: Clocks, state: State) -> None:
        """Begin to listen anew if this node has not begun, or hears too few others."""
        heard = [node for node, health in self.peers.items() if now.is_before(health.heard.after(DEAF_S))]
        if not self._has_begun(state) or len(heard) + 1 < state.votes_to_put_out:
            self._listens_from = self._listened_s

    def _is_silent(self, node: str) -> bool:
        """Whether this node has granted a member nothing for as long as it may wait for it."""
        return self._listened_s - max(self._granted_to.get(node, 0.0), self._listens_from) > SILENCE_S

    def _grant(self, node: str, ask: Ask, state: State) -> Grant | None:
        member = state.members.get(node)
        if member is None or member.entered != ask.entered or not self._has_begun(state):
            return None
        if self.node in member.votes or self._voted.get(node) == member.entered:
            return None
        self._granted_to[node] = self._listened_s
        return Grant(node, ask.entered, ask.boot_s, ask.real_s)

    def _take_grant(self, node: str, grant: Grant, state: State) -> None:
        """Count a grant for this node: the lease lasts from the oldest ask of so many that are needed."""
        if self._leaving or grant.to != self.node or grant.entered != self._entered(state) or not grant.entered:
            return
        asked = Clocks(grant.boot_s, grant.real_s)
        if asked.boot_s < self._started.boot_s or asked.real_s < self._started.real_s:
            return  # from before a jump of the clocks, or asked by a former process
        if asked.boot_s > self._now.boot_s or asked.real_s > self._now.real_s:
            return  # from before a clock was set back: it would count as the newest until that is made up for
        if node not in self._granted_by or self._granted_by[node].is_before(asked):
            self._granted_by[node] = asked
        needed = _grants_needed(state)
        newest = sorted(self._granted_by.values(), reverse=True)
        if len(newest) >= needed:
            self.lease_until = newest[needed - 1].after(LEASE_S)


def _grants_needed(state: State) -> int:
    """Return how many nodes must let a member read: any so many include one that has not voted, if it is still in."""
    return max(0, len(state.nodes) - state.votes_to_put_out)
