"""The examples of the page of client libraries, built of what the server hands out and run against it."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.system.harness import Server

BLOCK = '<pre[^>]*aria-label="{}"><code>(.*?)</code></pre>'
PROGRAM = """\
#include <stdio.h>
#include "{header}"
int main(void) {{
{example}
return 0;
}}
"""


def blocks(server: Server, label: str) -> list[str]:
    """Return the blocks of `/sdk/` with this label, as this server shows them."""
    page = httpx.get(f"{server.url}/sdk/", trust_env=False).raise_for_status().text
    return [html.unescape(found) for found in re.findall(BLOCK.format(label), page, re.DOTALL)]


def run(command: str, place: Path) -> str:
    """Return what a command of the shell prints. Fails if it does."""
    environ = {name: text for name, text in os.environ.items() if not name.startswith("KVSERVER_")} | {"NO_PROXY": "*"}
    shell = ["bash", "-ec", command]
    done = subprocess.run(shell, cwd=place, env=environ, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_javascript(server: Server, tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    commands, example = blocks(server, "Commands")[0], blocks(server, "Example")[0]
    run(commands, tmp_path)
    assert f'in a page: "{server.url}/sdk/client.js"' in example
    ended = example.strip().removesuffix(";") + ", process.exit();\n"
    (tmp_path / "app.mjs").write_text(ended)
    assert run("node app.mjs", tmp_path).splitlines()[0] == "{ on: true }"


@pytest.mark.parametrize(("number", "header", "printed"), [(1, "kvclient.h", "hello"), (2, "libMemoryKV.h", "dark")])
def test_c(server: Server, tmp_path: Path, number: int, header: str, printed: str) -> None:
    if shutil.which("cc") is None or shutil.which("pkg-config") is None:
        pytest.skip("cc or pkg-config is not installed")
    (tmp_path / "app.c").write_text(PROGRAM.format(header=header, example=blocks(server, "Example")[number]))
    run(blocks(server, "Commands")[1], tmp_path)
    assert run("./app", tmp_path) == printed + "\n"
