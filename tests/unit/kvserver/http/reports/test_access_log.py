"""The line of a request."""

from __future__ import annotations

import logging

import pytest

from kvserver.http.reports.access_log import AccessLog


def test_a_line_has_no_query_and_no_control_characters(caplog: pytest.LogCaptureFixture) -> None:
    report = AccessLog()
    report("192.0.2.1", "GET", b'/a"b\xff?ticket=secret', 200, 0.0012345)
    report("", "PUT", b"/k", 503, 1.0, b"abc")
    assert caplog.messages == [
        '192.0.2.1 "GET /a%22b\\xff" 200 0.001234 s',
        ' "PUT /k" 503 1.000000 s (request abc)',
    ]
    assert {record.levelno for record in caplog.records} == {logging.INFO}
    fields = caplog.records[1].__dict__["fields"]
    assert fields["status"] == 503 and fields["request_id"] == "abc"


def test_slow_requests_are_logged_alone_or_marked_among_all(caplog: pytest.LogCaptureFixture) -> None:
    for report in (AccessLog(every=False, slow_s=0.2), AccessLog(slow_s=0.2)):
        report("192.0.2.1", "GET", b"/fast", 200, 0.199999)
        report("192.0.2.1", "GET", b"/slow?q=1", 200, 0.2)
    slow = '192.0.2.1 "GET /slow" 200 0.200000 s'
    assert caplog.messages == [f"slow: {slow}", '192.0.2.1 "GET /fast" 200 0.199999 s', f"slow: {slow}"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]


def test_settings_choose_which_requests_are_logged() -> None:
    assert AccessLog.of(False, 0) is None
    assert AccessLog.of(False, 1) is not None
    assert AccessLog.of(True, 0) is not None
