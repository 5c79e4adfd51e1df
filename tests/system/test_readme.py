"""The README's examples, run as they stand against the real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx

from tests.system.harness import Server

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    """The contents of all code blocks of `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def test_console_examples_print_what_the_readme_says(server: Server, tmp_path: Path) -> None:
    address = f"{server.host}:{server.port}"
    environ = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KVSERVER_URL": server.url, "KVSERVER_DATA_DIR": str(server.data_dir), "KVSERVER_RUN_DIR": str(server.run_dir),
    }  # fmt: skip
    ran = 0
    for block in blocks("console"):
        for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            local = command.replace("localhost:8080", address).replace("curl ", "curl -s --noproxy '*' ")
            done = subprocess.run(
                ["bash", "-c", local], env=environ, cwd=tmp_path, capture_output=True, text=True, check=True
            )
            printed = done.stdout
            assert printed.strip() == expected.strip(), command
            ran += 1
    assert ran == README.read_text().count("\n$ ") > 0


def test_the_feed_example_prints_a_change(server: Server) -> None:
    (source,) = [block for block in blocks("python") if "/wal" in block]
    source = source.replace("localhost:8080", f"{server.host}:{server.port}").replace(
        "print(line)", "print(line, flush=True)"
    )
    source = source.replace("    for line", "    print('connected', flush=True)\n    for line")
    client = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == "connected\n"
        httpx.put(f"{server.url}/theme", content="dark", trust_env=False)
        lines = list(iter(client.stdout.readline, "Insert { key: theme, value: dark }\n"))
        assert all(line.startswith("Heartbeat from ") for line in lines)
    finally:
        client.kill()
        client.communicate()


def test_every_file_of_the_source_is_on_the_map() -> None:
    text = README.read_text()
    source = text[text.index("## The map of the source") :]
    root = README.parent
    for path in [*root.glob("shards/*.py"), *root.glob("kvserver/*.py")]:
        if not path.name.startswith("__"):
            assert re.search(rf"[`/]{path.name}`", source), f"{path.relative_to(root)} is not on the README's map"
