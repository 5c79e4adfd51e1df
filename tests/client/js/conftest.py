"""A chromium that the drivers of a module share, each with a page of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.client.sdks import Sdk

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def endpoint(make_dir: Callable[[str], Path]) -> Iterator[str]:
    """Where a running chromium listens for commands."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    options = ["--headless=new", "--no-sandbox", "--no-proxy-server", "--no-first-run", "--remote-debugging-port=0"]
    command = [CHROMIUM, *options, f"--user-data-dir={make_dir('profile')}", "about:blank"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            found = re.search(r"DevTools listening on (ws://\S+)", line)
            if found:
                yield found[1]
                break
        process.terminate()
        process.stderr.read()


def page_sdk(endpoint: str) -> Sdk:
    """Return the JavaScript client in pages of a chromium."""
    program = Path(__file__).with_name("conform_page.py")
    command = [sys.executable, "-m", "tests.client.js.conform_page", endpoint]
    return Sdk("js-page", program, lambda: command, frozenset(("wal",)), knows_what_was_sent=False)


@pytest.fixture(scope="module")
def sdk(endpoint: str) -> Sdk:
    """The JavaScript client in a page."""
    return page_sdk(endpoint)
