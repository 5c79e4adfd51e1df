"""Steps that run out of something are retried, and reported once when they fail and once when they work again."""

from __future__ import annotations

import errno
import logging

import pytest

from kvserver.serve.watch.scarcity import ScarcityRetry, is_scarcity


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR])
def test_a_shortage_is_temporary(number: int) -> None:
    assert is_scarcity(OSError(number, "short"))


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO, errno.EACCES, errno.ENOSPC])
def test_other_errors_are_none(number: int) -> None:
    assert not is_scarcity(OSError(number, "other"))


def test_it_is_logged_once_each_way(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    retry = ScarcityRetry()

    def short() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    def works() -> None:
        pass

    assert [retry.attempt("a step", step) for step in (works, short, short, works, works)] == [
        True,
        False,
        False,
        True,
        True,
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "a step has to wait, will retry: [Errno 24] Too many open files",
        "a step works again",
    ]


def test_steps_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    retry = ScarcityRetry()

    def short() -> None:
        raise OSError(errno.ENFILE, "short")

    retry.attempt("one", short)
    retry.attempt("two", short)
    assert [record.getMessage().split(" has")[0] for record in caplog.records] == ["one", "two"]


def test_any_other_error_is_the_caller_s() -> None:
    def fails() -> None:
        raise FileNotFoundError(errno.ENOENT, "gone")

    with pytest.raises(FileNotFoundError):
        ScarcityRetry().attempt("a step", fails)
