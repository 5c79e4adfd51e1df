"""The client's errors are the server's, sorted into what was surely not done and what may have been done."""

from __future__ import annotations

import pytest

from kvserver.client import errors
from kvserver.client.errors import CODES, STATUSES, KVError, OutcomeUnknown, Refused, error_of
from shards.wire.errors import ERRORS


def test_every_code_of_the_server_has_a_class_with_its_status() -> None:
    known = {code: cls.status for code, cls in CODES.items() if cls is not OutcomeUnknown}
    told = {code: cls.status for code, cls in ERRORS.items() if code != "outcome_unknown"}
    assert known == told


@pytest.mark.parametrize("code", ERRORS)
def test_a_code_gives_its_class_and_its_half(code: str) -> None:
    error = error_of(ERRORS[code].status, code, "what was wrong", "what would be right")
    assert type(error) is CODES[code]
    assert (error.code, error.status, error.detail) == (code, ERRORS[code].status, "what was wrong")
    unknown = code in ("internal", "outcome_unknown")
    assert isinstance(error, OutcomeUnknown) is unknown
    assert isinstance(error, Refused) is not unknown


@pytest.mark.parametrize("status", [*STATUSES, 418, 451])
def test_an_unknown_code_takes_the_class_of_its_status(status: int) -> None:
    error = error_of(status, "brand_new")
    assert type(error) is STATUSES.get(status, Refused)
    assert (error.code, error.status) == ("brand_new", status)
    assert isinstance(error, Refused)


@pytest.mark.parametrize("status", [500, 502, 504, 599])
def test_an_unknown_code_of_the_server_s_own_faults_may_have_done_something(status: int) -> None:
    assert isinstance(error_of(status, "brand_new"), OutcomeUnknown)


def test_an_error_says_all_it_knows_once() -> None:
    assert str(error_of(404, "not_found", "No such key", "PUT creates a key.")) == "No such key. PUT creates a key"
    assert str(KVError()) == "The request failed"


def test_not_found_is_a_key_error() -> None:
    assert isinstance(error_of(404, "not_found"), KeyError)


def test_members_are_read() -> None:
    failed = error_of(412, "precondition_failed", members={"revision": 57})
    assert isinstance(failed, errors.PreconditionFailed) and failed.revision == 57
    full = error_of(507, "memory_limit", members={"limit": 3, "used": 2, "needed": True})
    assert isinstance(full, errors.MemoryLimit) and (full.limit, full.used, full.needed) == (3, 2, 0)


def test_a_result_raises_its_error_when_it_is_checked() -> None:
    assert errors.Result(200, 5).check().revision == 5
    with pytest.raises(errors.NotFound):
        errors.Result(404, error=errors.NotFound()).check()
