"""Imports and exports by the commands, in this process where that is cheaper."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from base64 import b64encode
from typing import Any

import httpx
from click.testing import CliRunner

from kvserver.cli import main
from tests.system.harness import Server, wait_for

FAR = "2100-01-01T00:00:00.007Z"


ODD = [
    {"key": "../a//b%2F?c#d", "value": ""},
    {"key": "\u2028\u0085\n\r\t\x00", "value": "a line\u2028 and\u0085 another\n"},
    {"key": "\U0001f600" * 127, "value": "\u00e9", "content_type": 'text/plain; a="\\"b"', "expires": FAR},
    {"key": "bytes", "value_base64": b64encode(bytes(range(256))).decode(), "content_type": "image/png"},
    {"key": "twice", "value": "first"},
    {"key": "twice", "value": "then", "revision": 5, "size": 5, "created": None, "modified": FAR, "expires": None},
    {"key": "gone", "value": "v", "expires": "2001-01-01T00:00:00Z"},
]


def run(server: Server, *arguments: object, given: bytes = b"", token: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run a command: with standard input as a process, else in this one, which costs less."""
    variables = {"KVSERVER_URL": server.url, "KVSERVER_TOKEN": token}
    words = [str(argument) for argument in arguments]
    if given:
        return subprocess.run(command(*words), input=given, capture_output=True, timeout=60, env=os.environ | variables)
    done = CliRunner().invoke(main, words, env=variables, catch_exceptions=False)
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout_bytes, done.stderr_bytes)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "kvserver", *map(str, arguments)]


def environ(server: Server) -> dict[str, str]:
    return os.environ | {"KVSERVER_URL": server.url}


def text_of(records: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def exported(server: Server, *arguments: object, token: str = "") -> list[dict[str, Any]]:
    done = run(server, "export", "-", *arguments, token=token)
    assert (done.returncode, done.stderr) == (0, b""), done
    return [json.loads(line) for line in done.stdout.split(b"\n")[:-1]]


def rows(server: Server, kind: str) -> list[dict[str, Any]]:
    """What the status says of `kind`, once all shards are up."""

    def look() -> list[dict[str, Any]]:
        with contextlib.suppress(httpx.TransportError, httpx.HTTPStatusError):  # who was killed may not be back
            status = server.status()
            if all(shard["state"] == "up" for shard in status["shards"]):
                return list(status[kind])
        return []

    return list(wait_for(look, "a status", 40))


def client_keys(server: Server) -> list[str]:
    with server.client() as client:
        keys: list[str] = client.get("/keys").json()
        return keys
