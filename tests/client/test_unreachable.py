"""Servers that cannot be reached: the Python clients say why, each in the same words."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from kvserver.client import AsyncClient, CannotConnect, Client
from tests.client.canned import CannedServer


def why(url: str) -> list[str]:
    """What both clients say when they cannot connect."""

    async def ask() -> None:
        async with AsyncClient(url, patience=0, proxy=None) as kv:
            await kv.ping()

    with Client(url, patience=0, proxy=None) as kv, pytest.raises(CannotConnect) as first:
        kv.ping()
    with pytest.raises(CannotConnect) as second:
        asyncio.run(ask())
    return [first.value.detail, second.value.detail]


def test_a_name_that_is_none() -> None:
    details = why("http://no-such-host.invalid:1")
    assert details[0] == details[1] and "nknown error" not in details[1] and "name" in details[1].lower()


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    chain, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    subprocess.run([*request.split(), "-out", chain, "-keyout", key], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    with CannedServer(context) as server:
        details = why(server.url)
        assert details == [f"{server.url}: its certificate is not trusted: self-signed certificate"] * 2
