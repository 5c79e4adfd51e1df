"""Prometheus before servers, by the files in `deploy/`: with the shipped rules, but in seconds instead of minutes."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.system.deployed import DEPLOY

FIRING_AFTER = "3s"
"""How long a condition lasts until its alert fires, in the place of what the rules say."""


class Prometheus:
    """One that runs, by its API."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def query(self, text: str) -> list[dict[str, Any]]:
        """The result of a query; none as long as it starts."""
        try:
            answer = self._client.get("/query", params={"query": text}).raise_for_status().json()
        except httpx.HTTPError:
            return []
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def firing(self) -> set[tuple[str, str]]:
        """The alerts that fire now: name, and instance or an empty text."""
        found = self.query('ALERTS{alertstate="firing"}')
        return {(each["metric"]["alertname"], each["metric"].get("instance", "")) for each in found}

    def summaries(self) -> list[str]:
        """What firing alerts say."""
        alerts = self._client.get("/alerts").raise_for_status().json()["data"]["alerts"]
        return [alert["annotations"]["summary"] for alert in alerts if alert["state"] == "firing"]


def _replaced(text: str, pattern: str, ours: str) -> str:
    assert re.search(pattern, text, re.MULTILINE), pattern
    return re.sub(pattern, ours, text, flags=re.MULTILINE)


@contextlib.contextmanager
def prometheus(targets: Sequence[str], directory: Path) -> Iterator[Prometheus]:
    """A Prometheus that scrapes `targets` by the shipped configuration and rules."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = _replaced((DEPLOY / "prometheus.yml").read_text(), r"_interval: 15s", "_interval: 1s")
    config = _replaced(config, r'\["127.0.0.1:3001"\]', f"[{', '.join(targets)}]")
    rules = _replaced((DEPLOY / "kvserver.rules.yml").read_text(), r"^        for: \S+", f"        for: {FIRING_AFTER}")
    (directory / "prometheus.yml").write_text(config)
    (directory / "kvserver.rules.yml").write_text(rules)
    command = ["prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data"]
    with (directory / "said").open("wb") as said:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=said, stderr=said)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False, timeout=15) as client:
            yield Prometheus(client)
    finally:
        process.terminate()
        process.wait(20)
