"""The examples of the description, run in their order as they stand, and what they are answered."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs

from tests.system.harness import Server

CURL_TIMED_OUT = 28


def check(document: dict[str, Any], media: dict[str, Any], body: bytes) -> None:
    """Fails unless `body` is as `media` describes."""
    schema = {**media["schema"], "components": document["components"]}
    jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(json.loads(body))


def test_examples_are_answered_as_described(server: Server, tmp_path: Path) -> None:
    document = httpx.get(f"{server.url}/v1/openapi.json", trust_env=False).json()
    head, body = tmp_path / "head", tmp_path / "body"
    ran = checked = 0
    for methods in document["paths"].values():
        for operation in methods.values():
            for sample in operation.get("x-codeSamples", ()):
                command = sample["source"].replace("http://localhost:8080", server.url)
                command = command.replace("curl -i ", "curl ")  # its body is looked at
                body.write_bytes(b"")
                command = command.replace("curl ", f"curl -sS --noproxy '*' -D {head} -o {body} ", 1)
                endless = " -N " in command
                done = subprocess.run(["bash", "-c", command.replace("-N", "-N --max-time 1") if endless else command])
                assert done.returncode == (CURL_TIMED_OUT if endless else 0), sample
                status, fields = answered(head)
                answer = operation["responses"][status]
                assert status < "400", (sample, body.read_bytes())
                assert set(map(str.lower, required(answer))) <= fields.keys(), sample
                if "application/json" in answer.get("content", {}) and fields["content-type"] == "application/json":
                    check(document, answer["content"]["application/json"], body.read_bytes())
                    checked += 1
                ran += 1
    assert ran >= 25 and checked >= 8


def answered(head: Path) -> tuple[str, dict[str, str]]:
    """Status and headers that curl wrote down."""
    line, *fields = head.read_text().rstrip().splitlines()
    return line.split()[1], {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}


def required(answer: dict[str, Any]) -> list[str]:
    return [name for name, header in answer.get("headers", {}).items() if header.get("required")]


def test_lines_of_a_list_are_as_described(server: Server) -> None:
    with server.client() as client:
        document = client.get("/v1/openapi.json").json()
        for key, value in (("l/a", b"text"), ("l/b", b"\xff"), ("l/c/d", b"")):
            client.put(f"/v1/kv/{key}?ttl=1000", content=value)
        media = document["paths"]["/v1/kv"]["get"]["responses"]["200"]["content"]["application/x-ndjson"]
        answer = client.get(
            "/v1/kv?prefix=l/&delimiter=/&values=true", headers={"Accept": "application/x-ndjson"}
        ).raise_for_status()
        lines = answer.content.splitlines()
        assert len(lines) == 4
        for line in lines:
            check(document, media, line)
