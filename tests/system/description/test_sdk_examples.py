"""The examples of the page of client libraries, built of what the server hands out and run against it."""

from __future__ import annotations

import html
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from kvserver.sdk.files import FILES
from tests.system.harness import Server

PROGRAM = """\
#include <stdio.h>
#include "{header}"
int main(void) {{
{example}
return 0;
}}
"""


def examples(server: Server) -> list[str]:
    """Return the examples of `/sdk/`, as this server shows them."""
    page = httpx.get(f"{server.url}/sdk/", trust_env=False).raise_for_status().text
    return [html.unescape(found) for found in re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", page, re.DOTALL)]


def download(server: Server, place: Path) -> None:
    for name in FILES:
        (place / name).write_bytes(httpx.get(f"{server.url}/sdk/{name}", trust_env=False).raise_for_status().content)


def run(*command: str | Path, cwd: Path) -> str:
    """Return what a command prints. Fails if it does."""
    environ = {name: text for name, text in os.environ.items() if not name.startswith("KVSERVER_")} | {"NO_PROXY": "*"}
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_javascript(server: Server, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    download(server, tmp_path)
    example, *_ = examples(server)
    assert f'from "{server.url}/sdk/client.js"' in example
    ended = example.replace(f"{server.url}/sdk/", "./").rstrip().removesuffix(";") + ", process.exit();\n"
    (tmp_path / "app.mjs").write_text(ended)
    assert run(node, "app.mjs", cwd=tmp_path).splitlines()[0] == "{ on: true }"


@pytest.mark.parametrize(("number", "header", "printed"), [(1, "kvclient.h", "hello"), (2, "libMemoryKV.h", "dark")])
def test_c(server: Server, tmp_path: Path, number: int, header: str, printed: str) -> None:
    compiler, finder = shutil.which("cc"), shutil.which("pkg-config")
    if compiler is None or finder is None:
        pytest.skip("cc or pkg-config is not installed")
    download(server, tmp_path)
    (tmp_path / "app.c").write_text(PROGRAM.format(header=header, example=examples(server)[number]))
    libraries = shlex.split(run(finder, "--cflags", "--libs", "libcurl", "jansson", cwd=tmp_path))
    run(
        compiler, "-Wall", "-Wextra", "-Werror", "app.c", "kvclient.c", "-o", "app", *libraries, "-lwslay", cwd=tmp_path
    )
    assert run("./app", cwd=tmp_path) == printed + "\n"
