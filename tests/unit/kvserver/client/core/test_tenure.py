"""At no time two hold a key, whatever gets lost, however slow the answers are."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvserver.client.core.calls import Answer, Await, Call, Sleep
from kvserver.client.core.policy import Failure, judge
from kvserver.client.core.single import Content
from kvserver.client.core.tenure import Tenure, checked_ttl
from kvserver.client.errors import BadRequest, CannotConnect, KVError, NotAnswered, OutcomeUnknown

TTL = 10.0
PROBLEM = {"content-type": "application/problem+json"}


class Store:
    """One key of a server, whose clock may be slower or faster than that of clients by nothing: they share it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.value: tuple[bytes, str] | None = None
        self.revision = 100
        self.expires = 0.0

    def expire(self) -> None:
        if self.value is not None and self.now >= self.expires:
            self.value, self.revision = None, self.revision + 1

    def handle(self, call: Call[Any]) -> Answer:
        """What the server answers now."""
        self.expire()
        condition = call.headers.get("If-Match", "")
        if call.method == "GET":
            if self.value is None:
                return self.problem(404)
            headers = {"kv-revision": str(self.revision), "content-type": self.value[1]}
            return Answer(200, headers, self.value[0])
        if call.method == "PUT":
            assert call.headers["If-None-Match"] == "*"
            if self.value is not None:
                return self.problem(412)
            self.value = (call.body, call.headers["Content-Type"])
        elif self.value is None:
            return self.problem(404)
        elif condition != f'"{self.revision}"':
            return self.problem(412)
        if call.method == "DELETE":
            self.value = None
        else:
            self.expires = self.now + float(parse_qs(call.target.partition("?")[2])["ttl"][0])
        self.revision += 1
        return Answer(204, {"kv-revision": str(self.revision)}, b"")

    def problem(self, status: int) -> Answer:
        code = {404: "not_found", 412: "precondition_failed"}[status]
        return Answer(status, PROBLEM, b'{"code":"%b","status":%d}' % (code.encode(), status))


class Candidate:
    """A client that acquires, renews and releases, one step at a time."""

    def __init__(self, store: Store, number: int) -> None:
        self.store, self.number, self.round = store, number, 0
        self.tenure = self.new_tenure()
        self.script: Any = None
        self.call: Call[Any] | None = None
        self.answered: Answer | None = None
        self.fences: list[int] = []

    def new_tenure(self) -> Tenure:
        self.round += 1
        content = Content(b"v", f"text/plain; owner={self.number}.{self.round}", f"{TTL:g}", None)
        return Tenure("", "lock", TTL, content, lambda: self.store.now)

    def begin(self, what: str) -> None:
        if self.script is not None:
            return
        if what == "acquire" and not self.tenure.held:
            self.tenure = self.new_tenure()
            self.resume(self.tenure.acquire(lambda *_: None, float("inf")), None)
        elif what == "renew" and self.tenure.held:
            self.resume(self.tenure.renew(), None)
        elif what == "release" and self.tenure.fence:
            self.resume(self.tenure.release(), None)

    def resume(self, script: Any, result: Any) -> None:
        """Go on with a script, up to its next call."""
        self.script, self.answered = script, None
        try:
            step = script.throw(result) if isinstance(result, Exception) else script.send(result)
            while not isinstance(step, Call):
                assert isinstance(step, (Sleep, Await))
                step = script.send(None)
            self.call = step
        except (StopIteration, KVError):
            self.script = self.call = None
            if self.tenure.held:
                self.fences.append(self.tenure.fence)

    def arrive(self) -> None:
        """Its request arrives at the server."""
        if self.call is not None and self.answered is None:
            self.answered = self.store.handle(self.call)

    def hear(self, gets_lost: bool) -> None:
        """Its answer comes, or it is known that none will."""
        if self.call is None:
            return
        is_read = self.call.method == "GET"
        result: Any
        if self.answered is None:
            result = NotAnswered("lost") if is_read else CannotConnect("lost")
        elif gets_lost:
            result = NotAnswered("lost") if is_read else OutcomeUnknown("lost")
        else:
            result = judge(self.call, self.answered, keyed=False)
            result = result.error if isinstance(result, Failure) else result[0]
        self.resume(self.script, result)


class Holding(RuleBasedStateMachine):
    """Three candidates."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.candidates = [Candidate(self.store, number) for number in range(3)]

    @rule(number=st.integers(0, 2), what=st.sampled_from(["acquire", "acquire", "renew", "release"]))
    def begin(self, number: int, what: str) -> None:
        self.candidates[number].begin(what)

    @rule(number=st.integers(0, 2))
    def arrive(self, number: int) -> None:
        self.candidates[number].arrive()

    @rule(number=st.integers(0, 2), gets_lost=st.booleans())
    def hear(self, number: int, gets_lost: bool) -> None:
        self.candidates[number].hear(gets_lost)

    @rule(number=st.integers(0, 2), count=st.integers(1, 4))
    def exchange(self, number: int, count: int) -> None:
        for _ in range(count):
            self.candidates[number].arrive()
            self.candidates[number].hear(False)

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.3, 8.9, 9.0, 9.1, 10.0, 11.0]))
    def pass_time(self, seconds: float) -> None:
        self.store.now += seconds

    @rule()
    def delete(self) -> None:
        """By somebody who may, while nobody holds it or is about to: a holder would learn of it too late."""
        if not any(candidate.tenure.held or candidate.answered for candidate in self.candidates):
            self.store.value = None
            self.store.revision += 1

    @invariant()
    def one_holds_it(self) -> None:
        self.store.expire()
        holders = [candidate for candidate in self.candidates if candidate.tenure.held]
        assert len(holders) <= 1
        if holders:
            assert self.store.value is not None
            assert self.store.value[1].endswith(f"owner={holders[0].number}.{holders[0].round}")

    @invariant()
    def fences_grow(self) -> None:
        for candidate in self.candidates:
            assert candidate.fences == sorted(candidate.fences)
        fences = [fence for candidate in self.candidates for fence in set(candidate.fences)]
        assert len(fences) == len(set(fences)), "no two have the same"


TestHolding = Holding.TestCase
TestHolding.settings = settings(stateful_step_count=40, deadline=None)


def run(tenure: Tenure, script: Any, store: Store, seconds: float = 0.0) -> Any:
    """Carry out a script; each answer takes `seconds`."""
    result: Any = None
    try:
        step = script.send(None)
        while True:
            if isinstance(step, Call):
                answer = store.handle(step)
                store.now += seconds
                found = judge(step, answer, keyed=False)
                if isinstance(found, Failure):
                    step = script.throw(found.error)
                    continue
                result = found[0]
            elif isinstance(step, Await):
                step = script.throw(TimeoutError())
                continue
            else:
                result = None
            step = script.send(result)
    except StopIteration as end:
        return end.value


@pytest.fixture
def held() -> tuple[Store, Tenure]:
    """A key that is held since 0 seconds."""
    store = Store()
    candidate = Candidate(store, 1)
    assert run(candidate.tenure, candidate.tenure.acquire(lambda *_: None, 0), store) is True
    return store, candidate.tenure


def test_it_counts_as_held_for_nine_tenths_of_its_time(held: tuple[Store, Tenure]) -> None:
    store, tenure = held
    store.now = 8.99
    assert (tenure.held, tenure.lost, tenure.seconds_left()) == (True, False, pytest.approx(0.01))
    store.now = 9.0
    assert (tenure.held, tenure.lost, tenure.seconds_left()) == (False, True, 0)
    store.now = 1.0
    assert not tenure.held, "what was lost stays lost"


def test_a_renewal_counts_from_when_it_was_sent(held: tuple[Store, Tenure]) -> None:
    store, tenure = held
    store.now = 3.0
    fence = tenure.fence
    assert run(tenure, tenure.renew(), store, seconds=2.0) is True
    assert (tenure.fence, tenure.seconds_left()) == (fence, 12.0 - 5.0)
    assert tenure.revision > fence


def test_a_renewal_that_is_answered_too_late_renews_nothing(held: tuple[Store, Tenure]) -> None:
    store, tenure = held
    store.now = 8.0
    assert run(tenure, tenure.renew(), store, seconds=1.0) is False
    assert tenure.lost


def test_who_lost_it_does_not_renew_it(held: tuple[Store, Tenure]) -> None:
    store, tenure = held
    store.now = 9.5
    assert run(tenure, tenure.renew(), store) is False
    assert store.expires == 10.0


def test_a_deleted_key_is_lost_at_the_next_renewal(held: tuple[Store, Tenure]) -> None:
    store, tenure = held
    store.value = None
    assert tenure.held
    assert run(tenure, tenure.renew(), store) is False
    assert tenure.lost


def test_a_key_that_somebody_touched_is_still_one_s_own(held: tuple[Store, Tenure]) -> None:
    store, tenure = held
    store.revision += 5
    assert run(tenure, tenure.renew(), store) is True
    assert run(tenure, tenure.release(), store) is True
    assert store.value is None and not tenure.held


def test_another_s_key_is_neither_renewed_nor_deleted(held: tuple[Store, Tenure]) -> None:
    store, tenure = held
    store.value, store.revision = (b"v", "text/plain; owner=2.1"), 900
    assert run(tenure, tenure.renew(), store) is False
    assert run(tenure, tenure.release(), store) is False
    assert store.value is not None


def test_who_waits_in_vain_has_nothing(held: tuple[Store, Tenure]) -> None:
    store, _ = held
    other = Candidate(store, 2).tenure
    assert run(other, other.acquire(lambda *_: None, 5.0), store) is False
    assert not other.held and not other.lost


def test_a_creation_of_unknown_outcome_is_found_and_renewed() -> None:
    store = Store()
    candidate = Candidate(store, 1)
    candidate.begin("acquire")
    candidate.arrive()
    store.now = 4.0
    candidate.hear(gets_lost=True)
    for _ in range(2):  # look, renew
        assert not candidate.tenure.held
        candidate.arrive()
        candidate.hear(gets_lost=False)
    assert candidate.tenure.held and candidate.tenure.seconds_left() == 9.0 and candidate.tenure.fence == 101


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf")])
def test_a_time_to_live_is_above_zero(ttl: float) -> None:
    with pytest.raises(BadRequest):
        checked_ttl(ttl)


def test_how_it_was_lost(held: tuple[Store, Tenure]) -> None:
    store, tenure = held
    store.value = None
    assert run(tenure, tenure.renew(), store) is False
    assert tenure.lost and not tenure.expired


def test_that_it_was_not_renewed_in_time(held: tuple[Store, Tenure]) -> None:
    store, tenure = held
    store.now += TTL
    assert tenure.lost and tenure.expired
