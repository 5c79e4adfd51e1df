"""The worker class: what it does with errors of `accept`, and what it tells uvicorn."""

from __future__ import annotations

import errno
import logging

import pytest

from kvserver.web.connection import HttpConnection
from kvserver.web.worker import Worker, report_exhausted


def test_a_shortage_is_logged_and_not_for_each_connection(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        report_exhausted(OSError(errno.EMFILE, "Too many open files"))
    assert caplog.messages in ([], ["no connection can be taken: Too many open files"])
    assert {record.levelno for record in caplog.records} <= {logging.ERROR}


def test_any_other_error_is_raised() -> None:
    with pytest.raises(OSError, match="bad"):
        report_exhausted(OSError(errno.EBADF, "bad"))


def test_uvicorn_makes_our_connections() -> None:
    assert Worker.CONFIG_KWARGS["http"] is HttpConnection
    assert Worker.CONFIG_KWARGS["proxy_headers"] is False, "`Peer` finds the client"
