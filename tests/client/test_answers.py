"""Answers of servers and proxies, from the golden files: each client sorts each of them into the same half."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.canned import CannedServer
from tests.client.driver import Driver, Failed
from tests.client.sdks import Sdk

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden" / "answers.json").read_text())
"""Each: what is `asked`, with which `options`, the `answers`, and what the client tells: `ok` or `error`."""


@pytest.fixture(scope="module")
def canned() -> Iterator[CannedServer]:
    with CannedServer() as server:
        yield server


@pytest.fixture(scope="module")
def driver(sdk: Sdk, canned: CannedServer) -> Iterator[Driver]:
    canned.answers.clear()
    with Driver(sdk.command(), canned.url) as driver:
        yield driver


def bytes_of(answer: dict[str, Any]) -> bytes:
    """The answer on the wire."""
    body = answer.get("body", "")
    content = (json.dumps(body) if isinstance(body, dict) else body).encode()
    head = {"Content-Length": str(len(content))} | answer.get("headers", {})
    if answer["status"] in (204, 304):
        head.pop("Content-Length")
    fields = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"HTTP/1.1 {answer['status']} Told\r\n{fields}\r\n".encode() + content


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_what_an_answer_means(driver: Driver, canned: CannedServer, case: dict[str, Any]) -> None:
    canned.answers.clear()
    canned.answers.extend(bytes_of(answer) if answer else b"" for answer in case["answers"])
    canned.requests.clear()
    driver.ask("options", **({"patience": 0, "idempotency": False, "timeout": 10} | case.get("options", {})))
    asked = dict(case["asked"])
    do = asked.pop("do")
    found: dict[str, Any]
    try:
        found = {"ok": driver.ask(do, **asked)}
    except Failed as error:
        found = {"error": {"half": error.half, "code": error.code}}
    assert found == {name: case[name] for name in ("ok", "error") if name in case}
    if "requests" in case:
        assert len(canned.requests) == case["requests"]
    keys = {
        line for head in canned.requests for line in head.lower().splitlines() if line.startswith("idempotency-key")
    }
    assert len(keys) == case.get("idempotency_keys", 0)
