"""Errors of the client as words, as JSON and as exit statuses."""

from __future__ import annotations

import re

import pytest

from kvserver.client import errors
from kvserver.client.errors import KVError
from kvserver.commands.parts import statuses
from kvserver.commands.parts.reports import problem_document, status_of, words_of


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.NotFound(), 3),
        (errors.PreconditionFailed(), 4),
        (errors.Exists(), 4),
        (errors.NotAnInteger(), 4),
        (errors.BatchFailed(), 4),
        (errors.LockLost(), 4),
        (errors.InvalidToken(), 5),
        (errors.ForbiddenOrigin(), 5),
        (errors.CannotConnect(), 6),
        (errors.Overloaded(), 6),
        (errors.NotAnswered(), 6),
        (errors.RequestTimeout(), 6),
        (errors.OutcomeUnknown(), 7),
        (errors.InternalError(), 7),
        (errors.BadKey(), 2),
        (errors.MemoryLimit(), 1),
        (errors.ValueTooLarge(), 1),
        (errors.NoSuchResource(), 1),
        (errors.AnswerWithheld(), 0),
    ],
)
def test_a_status_for_every_cause(error: KVError, status: int) -> None:
    assert status_of(error) == status


def test_the_table_names_every_status_and_no_other() -> None:
    rows = re.findall(r"^\| (\d+) \|", statuses.__doc__ or "", re.MULTILINE)
    constants = {value for name, value in vars(statuses).items() if name.isupper()}
    assert {int(row) for row in rows} == constants | {0}


def test_words_tell_how_often_it_was_tried_and_where_to_look() -> None:
    error = errors.Overloaded("too many requests")
    error.attempts, error.request_id, error.status = 5, "abc", 503
    assert words_of(error).endswith("too many requests (tried 5 times) (request abc)")


def test_a_problem_has_what_the_server_said() -> None:
    error = errors.error_of(507, "memory_limit", "no", "delete", {"limit": 5, "used": 4, "request_id": "r"})
    error.request_id, error.attempts = "r", 1
    assert problem_document(error) == {
        "title": error.title,
        "status": 507,
        "code": "memory_limit",
        "detail": "no",
        "hint": "delete",
        "request_id": "r",
        "attempts": 1,
        "limit": 5,
        "used": 4,
    }


def test_an_error_without_an_answer_has_no_empty_members() -> None:
    assert problem_document(errors.CannotConnect("refused")) == {
        "title": errors.CannotConnect.title,
        "code": "cannot_connect",
        "detail": "refused",
        "attempts": 0,
    }
