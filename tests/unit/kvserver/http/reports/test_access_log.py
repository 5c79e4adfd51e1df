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
