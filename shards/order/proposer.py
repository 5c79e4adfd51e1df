"""Sends this machine's messages until they come back, so that each counts once and in its order. Pure.

A message has come back when it counts (`Replica.deliver`): no other acknowledgement is needed. What does not come back
is sent again, from the first one on. Twice is once; and what was lost leaves those behind it without effect, so all of
them are sent again (go-back-N).

- If nothing comes back for a while, the first message alone is sent again, to find out whether the order takes any:
  while it elects a leader, megabytes of repeats would only be in its way. The others follow when the first is back.
- If one comes back that does not count because one before it is missing, all are sent again at once.

**Withdrawing.** A sending is in doubt until it comes back or the order says that it was not taken. A group whose last
message has no sending in doubt can be withdrawn: its place is taken by a `Void`, and it has surely had no effect. Any
other may still be taken at any time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from shards.order.messages import LOWEST_LEVEL, Batch, Begin, Content, Part, Void, contents_of, encode_message
from shards.order.order import NameTaken, NotTaken, Order
from shards.order.replica import Effect

MOST_IN_FLIGHT: Final = 8
"""Messages that are on their way at a time."""
BYTES_IN_FLIGHT: Final = 4 << 20
"""Bytes of operations that are on their way at a time; one message may always be."""
RESEND_S: Final = 0.5
"""For which nothing may come back before the first message is sent again."""
PROBE_S: Final = 0.1
"""The same if it is known that it was not taken."""
DOUBT_S: Final = 0.05
"""For which the others may still come back by themselves once the first has."""


class _Flight:
    """A message on its way.

    Attributes:
        counter: its place in the session.
        content: what it says; a `Void` once it is withdrawn.
        ticket: of its group.
        size: bytes of its operations, as counted against `BYTES_IN_FLIGHT`.
        doubts: the numbers of its sendings that may be taken.
        sent: how often it was sent.
        voids: how often it was seen without effect.
    """

    __slots__ = ("content", "counter", "doubts", "sent", "size", "ticket", "voids")

    def __init__(self, counter: int, content: Content, ticket: int) -> None:
        self.counter, self.content, self.ticket = counter, content, ticket
        self.size = _size_of(content)
        self.doubts: set[int] = set()
        self.sent = self.voids = 0


class Proposer:
    """The messages of one process in an order.

    Args:
        node: the name of this machine.
        session: a random number of 63 bits but 0, which no other process ever has.
        replaces: the session of this node, as far as the replica knows; 0: it has none.

    Attributes:
        session: as given.
        level: of what is proposed, to be set: at most what all nodes understand, at least that of the state.
        begun: whether the `Begin` of this process has come back. Until then nothing else is sent.
        resent: how often something was sent again.
    """

    def __init__(self, node: str, session: int, replaces: int) -> None:
        self.node, self.session = node, session
        self.level = LOWEST_LEVEL
        self.begun = False
        self.resent = 0
        self._replaces = replaces
        self._begin = _Flight(0, Begin(replaces), 0)
        self._waiting: deque[tuple[int, Content, bool]] = deque()  # ticket, content, whether it is the last of it
        self._flights: deque[_Flight] = deque()
        self._last_of: dict[int, int] = {}  # counter of the last message of a group, by ticket
        self._by_sending: dict[int, _Flight] = {}
        self._bytes = 0
        self._counter = self._ticket = 0
        self._quiet_since = 0.0  # when something last came back or was sent again
        self._probe: int | None = None  # counter of the message that was sent again alone
        self._all_again = False  # there is a gap: send all again now

    @property
    def is_free(self) -> bool:
        """Whether a further group would be sent at once: else collect what arrives, and propose it as one later."""
        return self.begun and not self._waiting and self._probe is None and self._has_place()

    @property
    def in_flight(self) -> int:
        """How many messages have not come back, whether sent yet or not."""
        return len(self._flights) + len(self._waiting)

    def propose(self, operations: bytes) -> int:
        """Take encoded operations as a group; return its ticket, which `observe` returns when the group has come back.

        Raises ValueError if the group is larger than `GROUP_BYTES`.
        """
        return self._queue(*contents_of(operations))

    def say(self, content: Content) -> int:
        """Take a message without operations, an `In` or an `Out`; return its ticket, as `propose` does."""
        return self._queue(content)

    def withdraw(self, ticket: int) -> bool:
        """Give up a group that has not come back; whether it surely had, and will have, no effect.

        False: it is in doubt, and goes on being sent.
        """
        if any(ticket == waiting for waiting, _, last in self._waiting if last):
            return self._withdraw_waiting(ticket)
        flights = [flight for flight in self._flights if flight.ticket == ticket]
        if not flights or flights[-1].doubts:
            return False
        for flight in flights:
            if not flight.doubts:
                self._bytes -= flight.size
                flight.content, flight.size = Void(), 0
        return True

    def exchange(self, order: Order, now_s: float) -> None:
        """Hand `order` what is due, and learn what it did not take. `now_s`: by a clock that is never set."""
        for number in order.not_taken():
            flight = self._by_sending.pop(number, None)
            if flight:
                flight.doubts.discard(number)
        for flight in self._due(now_s):
            content = flight.content
            try:
                number = order.propose(encode_message(self.level, self.node, self.session, flight.counter, content))
            except NotTaken:
                break
            flight.doubts.add(number)
            self._by_sending[number] = flight

    def wait_s(self, now_s: float) -> float:
        """Return in how many seconds `exchange` has something to do if nothing else happens; infinite: never."""
        if not self.begun:
            return self._wait_for(self._begin, now_s)
        if self._all_again or (self._probe is None and any(not flight.sent for flight in self._flights)):
            return 0.0
        return self._wait_for(self._flights[0], now_s) if self._flights else float("inf")

    def observe(self, effect: Effect, now_s: float) -> int | None:
        """Follow what `Replica.deliver` says; return the ticket of the group that has come back with it, if one has.

        Raises `NameTaken`: this process must end.
        """
        if effect.node != self.node:
            return None
        if isinstance(effect.content, Begin):
            self._observe_begin(effect, now_s)
            return None
        if effect.session != self.session:
            return None
        if effect.content is None:
            self._observe_void(effect)
            return None
        return self._land(effect.counter, now_s)

    # What comes back.

    def _observe_begin(self, effect: Effect, now_s: float) -> None:
        if effect.session == self.session:
            self.begun = True
            self._settle(self._begin)
            self._quiet_since = now_s
        elif self.begun:
            raise NameTaken(self.node)
        else:
            self._begin_again(effect.session)

    def _observe_void(self, effect: Effect) -> None:
        """See whether a message of this session that does not count tells of a gap."""
        if effect.counter == 0 and not self.begun:  # it named another session than the one there was
            self._begin_again(self._replaces)
            return
        place = effect.counter - self._flights[0].counter if self._flights else 0
        if 0 < place < len(self._flights):
            flight = self._flights[place]
            flight.voids += 1
            if flight.voids >= flight.sent:  # no copy of it that may count is on its way
                self._all_again = True

    def _begin_again(self, replaces: int) -> None:
        """Try to replace the session that there is now."""
        self._replaces = replaces
        self._begin.content, self._begin.sent = Begin(replaces), 0

    def _land(self, counter: int, now_s: float) -> int | None:
        """Let go of the message that has come back: the first one, since others do not count."""
        flight = self._flights.popleft()
        if flight.counter != counter:
            raise AssertionError(f"message {counter} counted before message {flight.counter}")
        self._settle(flight)
        self._bytes -= flight.size
        self._quiet_since = now_s
        if not self._flights or not self._flights[0].sent:
            self._probe = None
        if self._last_of.get(flight.ticket) != counter:
            return None
        del self._last_of[flight.ticket]
        return None if isinstance(flight.content, Void) else flight.ticket

    def _settle(self, flight: _Flight) -> None:
        for number in flight.doubts:
            self._by_sending.pop(number, None)

    # What goes out.

    def _queue(self, *contents: Content) -> int:
        self._ticket += 1
        for index, content in enumerate(contents):
            self._waiting.append((self._ticket, content, index == len(contents) - 1))
        self._launch()
        return self._ticket

    def _withdraw_waiting(self, ticket: int) -> bool:
        """Forget what waits of a group. What of it is in flight has no effect without its last part."""
        begun = any(flight.ticket == ticket for flight in self._flights)
        self._waiting = deque(item for item in self._waiting if item[0] != ticket)
        if begun:  # its parts must not become those of the next group
            self._waiting.appendleft((ticket, Void(), True))
        return True

    def _has_place(self) -> bool:
        return not self._flights or (len(self._flights) < MOST_IN_FLIGHT and self._bytes < BYTES_IN_FLIGHT)

    def _launch(self) -> None:
        """Give what waits its counter, as far as there is place."""
        while self._waiting and self._has_place():
            ticket, content, last = self._waiting.popleft()
            self._counter += 1
            flight = _Flight(self._counter, content, ticket)
            self._bytes += flight.size
            self._flights.append(flight)
            if last:
                self._last_of[ticket] = self._counter

    def _due(self, now_s: float) -> Iterator[_Flight]:
        """Yield what is to be sent now, in its order; it counts as sent."""
        if not self.begun:
            yield from self._due_begin(now_s)
            return
        self._launch()
        yield from self._due_again(now_s)
        if self._probe is None:
            for flight in self._flights:
                if not flight.sent:
                    flight.sent = 1
                    self._quiet_since = now_s if flight is self._flights[0] else self._quiet_since
                    yield flight

    def _due_begin(self, now_s: float) -> Iterator[_Flight]:
        if self._wait_for(self._begin, now_s) == 0:
            self.resent += self._begin.sent > 0
            self._begin.sent += 1
            self._quiet_since = now_s
            yield self._begin

    def _due_again(self, now_s: float) -> Iterator[_Flight]:
        """Yield what is to be sent again: all, or the first one alone."""
        if not self._flights or not self._flights[0].sent:
            self._all_again = False
            return
        first = self._flights[0]
        if not self._all_again and self._wait_for(first, now_s) > 0:
            return
        is_probe = not self._all_again and self._probe in (None, first.counter)
        self._probe = first.counter if is_probe else None
        self._all_again = False
        self._quiet_since = now_s
        for flight in [first] if is_probe else list(self._flights):
            self.resent += flight.sent > 0
            flight.sent += 1
            yield flight

    def _wait_for(self, first: _Flight, now_s: float) -> float:
        """Return the seconds until `first`, the first message, is to be sent again."""
        if not first.sent:
            return 0.0
        if self._probe is not None and first.counter != self._probe:
            patience_s = DOUBT_S
        else:
            patience_s = RESEND_S if first.doubts else PROBE_S
        return max(0.0, self._quiet_since + patience_s - now_s)


def _size_of(content: Content) -> int:
    """Return how many bytes of operations `content` has."""
    if isinstance(content, Batch):
        return len(content.operations)
    return len(content.piece) if isinstance(content, Part) else 0
