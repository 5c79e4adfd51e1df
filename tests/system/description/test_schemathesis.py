"""Schemathesis: thousands of requests made from the description, right and wrong ones, against the real server."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.system.harness import Server

ROOT = Path(__file__).parents[3]
CONFIG = Path(__file__).with_name("schemathesis.toml")


def run(server: Server, *options: str) -> None:
    """Fails with what Schemathesis prints if it finds anything."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from schemathesis.cli import schemathesis; schemathesis()",
            "--config-file",
            str(CONFIG),
            "run",
            f"{server.url}/v1/openapi.json",
            "--no-color",
            "--seed",
            "1",
            *options,
        ],
        cwd=ROOT,
        env=os.environ | {"NO_PROXY": "*", "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout, done.stdout


def test_what_is_described_is_what_is_served(server: Server) -> None:
    run(server, "--max-examples", "6")


def test_without_its_token_nobody_is_served(new_server: Callable[..., Server], tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    grants = '[{ prefix = "", allow = ["read", "write", "feed", "admin"] }]'
    file.write_text(f'[[token]]\nname = "t"\nsha256 = "{hashlib.sha256(b"secret").hexdigest()}"\ngrants = {grants}\n')
    server = new_server("--tokens", str(file), "--workers", "1").start()
    only = ("--checks", "ignored_auth,not_a_server_error,status_code_conformance", "--phases", "fuzzing")
    run(server, "-H", "Authorization: Bearer secret", *only, "--mode", "positive", "--max-examples", "2")
