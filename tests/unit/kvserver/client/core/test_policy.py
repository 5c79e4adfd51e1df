"""The table of repeats, row by row: what each outcome means for a read and for each kind of write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.client.core import single
from kvserver.client.core.calls import Answer, Attempt, Call, Kind, Lost, Renew, Sleep
from kvserver.client.core.policy import FIRST_DELAY_S, LONGEST_DELAY_S, perform
from kvserver.client.core.single import Content
from kvserver.client.errors import (
    AnswerWithheld,
    CannotConnect,
    Exists,
    Forbidden,
    InternalError,
    InvalidToken,
    KVError,
    NotAnswered,
    OutcomeUnknown,
    PreconditionFailed,
    Refused,
    Unavailable,
)
from kvserver.client.model import Entry, Options, Written

V = Content(b"v", "text/plain", None, None)
READ = single.get("", "k")
WRITE = single.put("", "k", V)
CREATE = single.create("", "k", V)
CONDITIONAL = single.put("", "k", V, 5)
DELETE = single.delete("", "k", 5)
DONE = Answer(204, {"kv-revision": "57"}, b"")
VALUE = Answer(200, {"kv-revision": "57", "content-type": "text/plain"}, b"v")
UNSENT, LOST = Lost("unsent", False), Lost("lost", True)
PROXY = Answer(502, {"content-type": "text/html"}, b"<p>")

PLAIN, KEYED, IMPATIENT = Options(idempotency=False), Options(), Options(patience=0)


def problem(status: int, code: str, **headers: str) -> Answer:
    told = {"content-type": "application/problem+json"} | {n.replace("_", "-"): v for n, v in headers.items()}
    return Answer(status, told, json.dumps({"code": code, "status": status}).encode())


class Run:
    """What a policy does with `outcomes`, each of which takes `took` seconds."""

    def __init__(
        self,
        call: Call[Any],
        options: Options,
        outcomes: Sequence[Answer | Lost],
        took: float = 0.1,
        servers: int = 1,
    ) -> None:
        self.attempts: list[Attempt] = []
        self.sleeps: list[Sleep] = []
        self.renewed = 0
        self.result: Any = None
        self.error: KVError | None = None
        now, left, script = 1000.0, list(outcomes), perform(call, options, "K", servers)
        try:
            step = next(script)
            while True:
                answer: Any = None
                if isinstance(step, Attempt):
                    self.attempts.append(step)
                    now += took
                    answer = _at(left.pop(0) if len(left) > 1 else left[0], now)
                elif isinstance(step, Sleep):
                    self.sleeps.append(step)
                    now += max(step.least, step.jitter)
                else:
                    assert isinstance(step, Renew)
                    self.renewed += 1
                    answer = self.renewed == 1
                step = script.send(answer)
        except StopIteration as end:
            self.result = end.value
        except KVError as error:
            self.error = error
        self.unused = len(left) - 1


def _at(outcome: Answer | Lost, now: float) -> Answer | Lost:
    if isinstance(outcome, Lost):
        return Lost(outcome.why, outcome.sent, now)
    return Answer(outcome.status, outcome.headers, outcome.body, now)


WRITES = [WRITE, CREATE, CONDITIONAL, DELETE]


@pytest.mark.parametrize("options", [PLAIN, KEYED])
@pytest.mark.parametrize("call", [READ, *WRITES])
def test_what_was_not_sent_is_repeated(call: Call[Any], options: Options) -> None:
    run = Run(call, options, [UNSENT, UNSENT, VALUE if call is READ else DONE])
    assert run.error is None and len(run.attempts) == 3
    run = Run(call, options, [UNSENT])
    assert type(run.error) is CannotConnect and isinstance(run.error, Refused)
    assert run.error.attempts == len(run.attempts) > 3


@pytest.mark.parametrize("outcome", [LOST, PROXY, problem(500, "internal"), problem(504, "outcome_unknown")])
def test_a_read_is_repeated_after_a_loss(outcome: Answer | Lost) -> None:
    assert isinstance(Run(READ, PLAIN, [outcome, VALUE]).result, Entry)
    assert type(Run(READ, PLAIN, [outcome]).error) is NotAnswered


@pytest.mark.parametrize("outcome", [LOST, PROXY, problem(500, "internal"), problem(504, "outcome_unknown")])
@pytest.mark.parametrize("call", [WRITE, CREATE])
def test_a_write_without_a_key_is_not(call: Call[Any], outcome: Answer | Lost) -> None:
    run = Run(call, PLAIN, [outcome, problem(404, "not_found")])
    assert isinstance(run.error, OutcomeUnknown)
    assert [attempt.idempotency_key for attempt in run.attempts if attempt.call is call] == [None]
    assert not run.sleeps


@pytest.mark.parametrize("outcome", [LOST, PROXY, problem(500, "internal"), problem(504, "outcome_unknown")])
@pytest.mark.parametrize("call", WRITES)
def test_a_write_with_a_key_is_and_always_with_the_same(call: Call[Any], outcome: Answer | Lost) -> None:
    run = Run(call, KEYED, [outcome, UNSENT, problem(503, "unavailable"), outcome, DONE])
    assert run.error is None and {attempt.idempotency_key for attempt in run.attempts} == {"K"}
    run = Run(call, KEYED, [outcome, UNSENT])
    assert isinstance(run.error, OutcomeUnknown)
    assert run.error.attempts == len(run.attempts)


@pytest.mark.parametrize("outcome", [LOST, PROXY, problem(504, "outcome_unknown")])
def test_a_write_on_a_revision_is_repeated_without_a_key(outcome: Answer | Lost) -> None:
    assert Run(CONDITIONAL, PLAIN, [outcome, DONE]).result == Written(57)


def test_a_412_after_a_loss_says_what_the_key_holds() -> None:
    run = Run(CONDITIONAL, PLAIN, [LOST, problem(412, "precondition_failed", kv_revision="57"), VALUE])
    assert isinstance(run.error, OutcomeUnknown) and run.error.current is not None
    assert run.error.current.revision == 57
    run = Run(CONDITIONAL, PLAIN, [LOST, problem(412, "precondition_failed"), LOST])
    assert isinstance(run.error, OutcomeUnknown) and run.error.current is None


def test_an_idempotent_write_counts_as_done_if_the_key_holds_it() -> None:
    call = single.put("", "k", V, 5, idempotent=True)
    refused = problem(412, "precondition_failed", kv_revision="57")
    assert Run(call, PLAIN, [LOST, refused, VALUE]).result == Written(57)
    other = Answer(200, {"kv-revision": "57", "content-type": "text/plain"}, b"w")
    assert isinstance(Run(call, PLAIN, [LOST, refused, other]).error, OutcomeUnknown)
    assert isinstance(Run(call, PLAIN, [LOST, refused, problem(404, "not_found")]).error, OutcomeUnknown)


def test_a_key_that_is_gone_after_a_loss_was_perhaps_deleted() -> None:
    assert isinstance(Run(DELETE, PLAIN, [LOST, problem(404, "not_found")]).error, OutcomeUnknown)
    assert Run(DELETE, PLAIN, [problem(404, "not_found")]).result is False
    assert Run(DELETE, KEYED, [LOST, problem(404, "not_found")]).result is False


def test_a_create_says_what_the_key_holds() -> None:
    run = Run(CREATE, PLAIN, [LOST, VALUE])
    assert isinstance(run.error, OutcomeUnknown) and run.error.current is not None
    assert [attempt.call.method for attempt in run.attempts] == ["PUT", "GET"]


def test_with_a_key_a_refusal_after_a_loss_is_an_answer() -> None:
    run = Run(WRITE, KEYED, [LOST, problem(412, "precondition_failed", kv_revision="57")])
    assert type(run.error) is PreconditionFailed and run.error.revision == 57


@pytest.mark.parametrize(("status", "code"), [(401, "invalid_token"), (403, "forbidden"), (507, "memory_limit")])
@pytest.mark.parametrize("options", [PLAIN, KEYED])
def test_what_is_decided_before_the_write_says_nothing_of_it(status: int, code: str, options: Options) -> None:
    assert isinstance(Run(CONDITIONAL, options, [LOST, problem(status, code)]).error, OutcomeUnknown)


@pytest.mark.parametrize("outcome", [problem(503, "unavailable"), problem(503, "overloaded"), Answer(503, {}, b"")])
@pytest.mark.parametrize("call", [READ, *WRITES])
def test_a_server_that_cannot_now_is_asked_again(call: Call[Any], outcome: Answer) -> None:
    assert Run(call, PLAIN, [outcome, VALUE if call is READ else DONE]).error is None
    error = Run(call, PLAIN, [outcome]).error
    assert isinstance(error, Unavailable)
    assert len(Run(call, IMPATIENT, [outcome]).attempts) == 1


@pytest.mark.parametrize(("status", "code"), [(400, "bad_key"), (403, "forbidden"), (409, "not_json"), (507, "x")])
@pytest.mark.parametrize("call", [READ, *WRITES])
def test_other_errors_are_raised(call: Call[Any], status: int, code: str) -> None:
    run = Run(call, KEYED, [problem(status, code)])
    assert isinstance(run.error, Refused) and run.error.code == code and len(run.attempts) == 1


def test_create_raises_exists() -> None:
    error = Run(CREATE, KEYED, [problem(412, "precondition_failed", kv_revision="57")]).error
    assert type(error) is Exists and error.revision == 57 and error.status == 412


def test_an_answer_that_is_no_kvserver_s_is_not_asked_for_again() -> None:
    for answer in (Answer(200, {}, b"<p>"), Answer(302, {"location": "/"}, b""), Answer(404, {}, b"")):
        assert type(Run(READ, KEYED, [answer]).error) is NotAnswered
        run = Run(WRITE, KEYED, [answer])
        assert type(run.error) is OutcomeUnknown and len(run.attempts) == 1


def test_a_redirect_says_where_to() -> None:
    error = Run(READ, KEYED, [Answer(307, {"location": "https://a/v1/kv/k"}, b"")]).error
    assert type(error) is NotAnswered
    assert error.detail == "a redirect (307) to https://a/v1/kv/k: give the client that URL"


def test_what_was_done_is_not_asked_for_again() -> None:
    run = Run(single.incr("", "k"), KEYED, [LOST, DONE])
    assert type(run.error) is AnswerWithheld and run.error.revision == 57


def test_the_token_is_renewed_once() -> None:
    run = Run(WRITE, KEYED, [problem(401, "invalid_token"), DONE])
    assert run.result == Written(57) and run.renewed == 1 and not run.sleeps
    run = Run(WRITE, KEYED, [problem(401, "invalid_token")])
    assert type(run.error) is InvalidToken and run.renewed == 1 and len(run.attempts) == 2


def test_the_server_s_own_fault_keeps_its_code() -> None:
    error = Run(WRITE, PLAIN, [problem(500, "internal", x_request_id="r")]).error
    assert type(error) is InternalError and error.request_id == "r"
    assert not isinstance(Run(WRITE, PLAIN, [problem(500, "protocol_error")]).error, OutcomeUnknown)
    assert type(Run(READ, PLAIN, [problem(403, "forbidden")]).error) is Forbidden


@given(st.floats(0, 60), st.integers(0, 90), st.floats(0.001, 20))
def test_repeats_end_with_the_patience(patience: float, retry_after: int, took: float) -> None:
    outcome = problem(503, "unavailable", retry_after=str(retry_after))
    run = Run(READ, Options(patience=patience), [outcome], took)
    assert isinstance(run.error, Unavailable) and run.error.attempts == len(run.attempts) == len(run.sleeps) + 1
    for number, sleep in enumerate(run.sleeps):
        assert sleep.jitter == min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**number)
        assert sleep.least == retry_after < sleep.most <= patience + 1e-6
        assert sleep.attempts == number + 1 and isinstance(sleep.error, Unavailable)


@given(st.lists(st.sampled_from([UNSENT, LOST, PROXY, DONE, problem(503, "unavailable"), problem(403, "forbidden")])))
def test_a_refusal_means_that_no_attempt_can_have_been_done(outcomes: list[Answer | Lost]) -> None:
    """Whatever happens, in whatever order, to whatever kind of write."""
    for call in WRITES:
        for options in (PLAIN, KEYED):
            run = Run(call, options, [*outcomes, problem(403, "forbidden")])
            met = [*outcomes, problem(403, "forbidden")][: len(run.attempts)]
            if isinstance(run.error, Refused):
                assert LOST not in met and PROXY not in met
            if run.error is None:
                assert DONE in met
            assert call.kind is not Kind.READ


@pytest.mark.parametrize("failure", [UNSENT, LOST, PROXY, problem(503, "unavailable", retry_after="1")])
def test_another_server_is_asked_at_once_until_all_were_asked(failure: Answer | Lost) -> None:
    run = Run(WRITE, Options(patience=60), [failure] * 7 + [DONE], servers=3)
    assert run.error is None and len(run.attempts) == 8
    least = 1.0 if isinstance(failure, Answer) and failure.status == 503 else 0.0
    assert [(sleep.jitter, sleep.least) for sleep in run.sleeps] == [
        *[(0.0, 0.0)] * 2,
        (FIRST_DELAY_S, least),
        *[(0.0, 0.0)] * 2,
        (2 * FIRST_DELAY_S, least),
        (0.0, 0.0),
    ]


def test_a_server_that_asks_for_more_time_than_there_is_does_not_end_it_where_another_is_left() -> None:
    later = problem(503, "not_current", retry_after="30")
    assert Run(WRITE, KEYED, [later, DONE], servers=2).error is None
    assert isinstance(Run(WRITE, KEYED, [later, later, DONE], servers=2).error, Unavailable)


@pytest.mark.parametrize("status", [408, 429])
def test_what_another_server_would_say_too_is_repeated_after_a_delay(status: int) -> None:
    run = Run(WRITE, KEYED, [problem(status, "request_timeout"), DONE], servers=2)
    assert run.error is None and [sleep.jitter for sleep in run.sleeps] == [FIRST_DELAY_S]
