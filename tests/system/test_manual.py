"""Runs the examples of the README and the manual, in every language, against the real server.

Only addresses are changed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest

from kvserver.access import tokenfile
from tests.system.harness import Server, wait_for

ROOT: Final = Path(__file__).parents[2]
DOCUMENTS: Final = (ROOT / "README.md", *sorted((ROOT / "kvserver" / "manual").glob("*.md")))
PAGE: Final = Path(__file__).with_name("page.js")
TOURS_FIRST: Final = "import json\nimport subprocess"

ELSEWHERE: Final = {
    "python3 -m venv .venv && .venv/bin/pip install -": "it runs this: test_the_test_command_is_what_ci_runs",
    "useradd --system": "needs a machine with systemd: test_commands_for_systemd_name_what_there_is",
    "install -d -o kvserver": "the same",
    ".venv/bin/python -m tests.bench": "takes twenty minutes: test_the_benchmark_s_command_is_understood",
    "pip install '.[cluster]'": "installs: tests/cluster/test_demo.py runs the demonstration",
    "kvserver cluster reset": "needs an order that is lost: tests/cluster/test_life_lost.py runs it",
    "kvserver cluster secret cluster.secret\nexport": "its ports are fixed: tests/cluster/test_by_hand.py has others",
}
"""What cannot be run here, by its beginning, and what is done instead."""

END: Final = "---end-of-what-a-command-printed---"


def blocks(*documents: Path) -> list[tuple[str, str]]:
    """Return language and content of the code blocks of these documents, or of all."""
    texts = [document.read_text() for document in documents or DOCUMENTS]
    pairs = [re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) for text in texts]
    return [pair for found in pairs for pair in found if pair[0]]


def block(language: str, beginning: str) -> str:
    """The one block of `language` that begins like this; it is run by who asks."""
    (found,) = [text for each, text in blocks() if each == language and text.startswith(beginning)]
    return found


def at(server: Server, text: str) -> str:
    """`text`, about a server of the tests."""
    return text.replace("localhost:8080", f"{server.host}:{server.port}")


def environ(server: Server | None = None) -> dict[str, str]:
    """The environment of a user who has installed it; of the commands, where the server is."""
    found = {name: text for name, text in os.environ.items() if not name.startswith("KVSERVER_")}
    found |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "NO_PROXY": "*", "PYTHONUNBUFFERED": "1"}
    if server is not None:
        found |= {"KVSERVER_URL": server.url, "KVSERVER_RUN_DIR": str(server.run_dir)}
    return found


def shell(server: Server, text: str, place: Path, **more: str) -> str:
    """What the commands print. Fails if one does."""
    done = subprocess.run(
        ["bash", "-ec", at(server, text)],
        env=environ(server) | more,
        cwd=place,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=100,
    )
    return done.stdout


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers of the test's own, which stop before `tmp_path` goes, where their data are."""
    started: list[Server] = []

    def make(data_dir: Path, *options: str) -> Server:
        started.append(Server(data_dir, *options))
        return started[-1]

    yield make
    for server in started:
        server.close()


def console_examples(document: Path) -> list[list[tuple[str, str]]]:
    """Return for each block its commands, which share a shell, and what they print."""
    texts = [text for language, text in blocks(document) if language == "console"]
    return [re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE) for text in texts]


@pytest.mark.parametrize(
    "document", [document for document in DOCUMENTS if console_examples(document)], ids=lambda path: path.stem
)
def test_console_examples_print_what_the_document_says(server: Server, document: Path, tmp_path: Path) -> None:
    httpx.delete(f"{server.url}/keys", trust_env=False).raise_for_status()
    examples = console_examples(document)
    assert sum(map(len, examples)) == document.read_text().count("\n$ ") > 0
    for example in examples:
        commands = [command.replace("curl ", "curl -s ") + f"\nprintf %s {END}" for command, _ in example]
        printed = shell(server, "\n".join(commands), tmp_path, KVSERVER_DATA_DIR=str(server.data_dir))
        for (command, expected), said in zip(example, printed.split(END), strict=False):
            assert said.strip() == expected.strip(), command


@contextmanager
def running(command: list[str], **more: object) -> Iterator[subprocess.Popen[str]]:
    """A process, until the end of the block."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **more)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_feed_example_prints_a_change(server: Server) -> None:
    source = at(server, block("python", "from websockets"))
    with running([sys.executable, "-c", source], env=environ()) as client:
        wait_for(lambda: server.status()["gateways"][0]["clients"] > 0, "a client of the feed")
        httpx.put(f"{server.url}/theme", content="dark", trust_env=False)
        assert client.stdout is not None
        lines = list(iter(client.stdout.readline, "Insert { key: theme, value: dark }\n"))
        assert all(line.startswith("Heartbeat from ") for line in lines)


def test_the_first_watch_shows_a_change(server: Server) -> None:
    watch = at(server, block("sh", "curl -sN -H 'Accept: application/x-ndjson' 'http://localhost"))
    with running(["bash", "-c", f"exec {watch}"], env=environ()) as client:
        assert client.stdout is not None
        while '"type":"snapshot_end"' not in client.stdout.readline():
            pass
        httpx.put(f"{server.url}/v1/kv/flags/seen", content="on", trust_env=False).raise_for_status()
        assert '"key":"flags/seen"' in client.stdout.readline()


def python_examples() -> list[tuple[str, str]]:
    """Return the Python examples that say what they print, by document."""
    found = [(path.stem, text) for path in DOCUMENTS for language, text in blocks(path) if language == "python"]
    return [(stem, text) for stem, text in found if "kvserver.client" in text]


@pytest.mark.parametrize(("document", "text"), python_examples(), ids=[stem for stem, _ in python_examples()])
def test_python_examples_print_what_they_say(server: Server, document: str, text: str, tmp_path: Path) -> None:
    httpx.delete(f"{server.url}/keys", trust_env=False).raise_for_status()
    said = re.findall(r"print\(.*\)  # (.*)$", text, re.MULTILINE)
    command = [sys.executable, "-W", "error", "-c", text]
    done = subprocess.run(command, env=environ(server), cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert said and [line for line in said if line not in done.stdout.splitlines()] == [], done.stdout


def javascript_examples() -> list[tuple[str, str]]:
    """Return the examples of the JavaScript client, by document."""
    found = [(path.stem, text) for path in DOCUMENTS for language, text in blocks(path) if language == "js"]
    return [(stem, text) for stem, text in found if '"./client.js"' in text]


@pytest.mark.parametrize(("document", "text"), javascript_examples(), ids=[stem for stem, _ in javascript_examples()])
def test_javascript_examples_print_what_they_say(server: Server, document: str, text: str, tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    httpx.delete(f"{server.url}/keys", trust_env=False).raise_for_status()
    httpx.put(f"{server.url}/v1/kv/flags/beta", content='{"on":true}', trust_env=False).raise_for_status()
    said = re.findall(r"console\.log\(.*\);  // (.*)$", text, re.MULTILINE)
    assert said
    shell(server, "kvserver sdk js -o .", tmp_path)
    (tmp_path / "app.js").write_text(text)
    with running(["node", "app.js"], env=environ(server), cwd=tmp_path) as client:
        assert client.stdout is not None
        assert [client.stdout.readline().rstrip("\n") for _ in said] == said


def test_the_c_example_prints_what_it_stored(server: Server, tmp_path: Path) -> None:
    if shutil.which("cc") is None or shutil.which("pkg-config") is None:
        pytest.skip("cc or pkg-config is not installed")
    (tmp_path / "app.c").write_text(block("c", "#include"))
    shell(server, "kvserver sdk c -o .", tmp_path)
    shell(server, block("sh", "cc app.c"), tmp_path)
    assert shell(server, "./app", tmp_path) == "hello\n"


def test_the_rust_example_is_that_of_the_crate() -> None:
    example = ROOT / "kvserver" / "sdk" / "rust" / "examples" / "greeting.rs"
    assert example.read_text().partition("\n\n")[2] == block("rust", "use kvserver_client")


def test_the_recipes_of_shells_change_a_flag_and_apply_a_configuration(server: Server, tmp_path: Path) -> None:
    httpx.put(f"{server.url}/v1/kv/flags/checkout", content='{"on":true}', trust_env=False).raise_for_status()
    assert json.loads(shell(server, block("sh", "curl -X PATCH"), tmp_path)) == {"on": True, "percent": 50}
    (tmp_path / "apply").write_text('#!/bin/sh\ncat > "applied-$(basename "$KV_KEY")"\n')
    (tmp_path / "apply").chmod(0o755)
    httpx.put(f"{server.url}/v1/kv/config/pool", content="16", trust_env=False).raise_for_status()
    with running(["bash", "-c", "exec " + block("sh", "kvserver watch config/")], env=environ(server), cwd=tmp_path):
        applied = tmp_path / "applied-pool"
        wait_for(lambda: applied.exists() and applied.read_text() == "16", "the value at the command")


def test_tokens_are_made_and_used_as_it_says(new: Callable[..., Server], tmp_path: Path) -> None:
    make, serve, nothing, ask = block("sh", "kvserver token new").rstrip("\n").split("\n")
    server = new(tmp_path / "data", *serve.removeprefix("kvserver serve ").split())
    (tokens,) = [option for option in server.options if option.endswith(".toml")]
    server.options = tuple(str(tmp_path / tokens) if option == tokens else option for option in server.options)
    token = subprocess.run(
        ["bash", "-c", make], env=environ(), cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    server.start()
    assert nothing == "" and json.loads(shell(server, ask, tmp_path, KVSERVER_TOKEN=token))["code"] == "not_found"
    allowed = {"Authorization": f"Bearer {token}"}
    httpx.put(f"{server.url}/v1/kv/flags/beta", content="on", headers=allowed, trust_env=False).raise_for_status()
    assert shell(server, ask, tmp_path, KVSERVER_TOKEN=token) == "on"


def test_the_file_of_tokens_can_be_read() -> None:
    (token,) = tokenfile.parse_tokens(block("toml", "[[token]]"), "access.md")
    assert (token.grants.name, token.grants.write, token.grants.feed) == ("deploy", (b"flags/",), (b"",))


def test_a_page_opens_the_feed_with_a_ticket(new: Callable[..., Server], tmp_path: Path) -> None:
    example = block("js", "const asked = await fetch")
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    run = ["kvserver", "token", "new", "page", "--grant", "feed", "--tokens", "tokens.toml"]
    token = subprocess.run(run, env=environ(), cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()
    server = new(tmp_path / "data", "--tokens", str(tmp_path / "tokens.toml")).start()
    command = ["node", *websocket_of_node(), str(PAGE), server.url, token, at(server, example)]
    done = subprocess.run(command, env=environ(), capture_output=True, text=True, timeout=60)
    assert done.stdout == "open\n", done


def websocket_of_node() -> list[str]:
    """The option by which node has the WebSocket of browsers, if it needs one."""
    for options in ([], ["--experimental-websocket"]):
        if subprocess.run(["node", *options, "-e", "WebSocket"], capture_output=True).returncode == 0:
            return options
    return []  # then it is a package of its own


def program(directory: Path, name: str, text: str) -> dict[str, str]:
    """Write a script `name`; return the environment that finds it first."""
    (directory / name).write_text(f"#!/bin/sh\n{text}\n")
    (directory / name).chmod(0o755)
    return {"PATH": f"{directory}:{environ()['PATH']}"}


def test_strings_move_from_redis_with_their_lifetimes(server: Server, tmp_path: Path) -> None:
    if not all(map(shutil.which, ("redis-server", "redis-cli", "jq"))):
        pytest.skip("redis or jq is not installed")
    socket, real = tmp_path / "redis.sock", shutil.which("redis-cli")
    redis = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--daemonize", "no"]
    with running(redis, env=environ(), cwd=tmp_path):
        wait_for(socket.exists, "Redis")
        path = program(tmp_path, "redis-cli", f'exec {real} -s {socket} "$@"')
        commands = ("set move/plain 'a \"b\"'", "setex move/é 100000 ü", "lpush list 1")
        shell(server, "\n".join(f"redis-cli {command}" for command in commands), tmp_path, **path)
        assert "stored 2 records" in shell(server, block("sh", "redis-cli --scan"), tmp_path, **path)
    found = httpx.get(f"{server.url}/v1/kv?prefix=move/&values=true", trust_env=False).json()["items"]
    assert [(item["key"], item["value"], item["expires"] is None) for item in found] == [
        ("move/plain", 'a "b"', True),
        ("move/é", "ü", False),
    ]


def test_keys_move_from_consul_and_firebase(server: Server, tmp_path: Path) -> None:
    """From what `consul kv export` and Firebase's console write."""
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    exported = [{"key": "consul/color", "flags": 0, "value": "Ymx1ZQ=="}, {"key": "consul/", "flags": 0, "value": ""}]
    (tmp_path / "exported.json").write_text(json.dumps(exported))
    path = program(tmp_path, "consul", f"cat {tmp_path}/exported.json")
    assert "stored 2 records" in shell(server, block("sh", "consul kv export"), tmp_path, **path)
    assert httpx.get(f"{server.url}/v1/kv/consul/color", trust_env=False).text == "blue"
    (tmp_path / "leaves.py").write_text(block("python", "# leaves.py"))
    (tmp_path / "export.json").write_text(json.dumps({"fire": {"7": {"topic": "é", "count": 2}}}))
    shell(server, "python3 leaves.py < export.json | kvserver import -", tmp_path)
    found = httpx.get(f"{server.url}/v1/kv?prefix=fire/&values=true", trust_env=False).json()["items"]
    assert {item["key"]: json.loads(item["value"]) for item in found} == {"fire/7/topic": "é", "fire/7/count": 2}


def test_the_tour(new: Callable[..., Server], tmp_path: Path) -> None:
    if shutil.which("apt-cache") is None:
        pytest.skip("apt is not installed")
    (tmp_path / "packages.py").write_text(block("python", TOURS_FIRST))
    server = new(tmp_path / "tour").start()
    stored = shell(server, block("sh", "python3 packages.py"), tmp_path)
    records = int(re.findall(r"stored ([\d,]+) record", stored)[0].replace(",", ""))
    told = tmp_path / "events.ndjson"
    wait_for(lambda: told.read_text().count('"op":"put"') == records > 0, "the last event")
    looked = shell(server, block("sh", "curl 'http://localhost:8080/v1/kv?prefix=pkg:&delimiter"), tmp_path)
    assert '{"count":' in looked and '"Rating":5' in looked and '"complete":true' in looked
    (cut,) = re.findall(r'"cut":(\d+)', looked)
    server.stop()
    shell(server, block("sh", "kvserver restore monday").replace("CUT", cut), tmp_path)
    restored = new(tmp_path / "restored").start()
    assert shell(restored, block("sh", "kvserver export after.ndjson"), tmp_path).endswith("the same\n")


@pytest.mark.timeout(600)
def test_the_first_command_starts_it(tmp_path: Path) -> None:
    command = block("sh", "python3 -m venv .venv && .venv/bin/pip install . ")
    tree = shutil.copytree(ROOT, tmp_path / "tree", ignore=shutil.ignore_patterns(".*", "__pycache__"))
    more = {"KVSERVER_PORT": "0", "KVSERVER_METRICS_PORT": "0", "KVSERVER_IN_MEMORY": "true"}
    more["KVSERVER_RUN_DIR"] = str(tmp_path / "run")
    set_up, _, serve = command.rstrip().rpartition("&& ")
    script = f"{set_up}&& exec {serve}"  # so that the shell's pid is the server's
    with running(["bash", "-c", script], env=environ() | more | {"PATH": os.environ["PATH"]}, cwd=tree) as process:
        assert process.stdout is not None
        assert "ready\n" in iter(process.stdout.readline, "")
        process.terminate()
        process.wait(60)


def test_the_test_command_is_what_ci_runs() -> None:
    (command,) = [text for language, text in blocks() if language == "sh" and text.endswith(".venv/bin/pytest\n")]
    script = (ROOT / ".ci" / "run").read_text().replace("pip install -q ", "pip install ")
    assert command.rstrip() in script


def test_commands_for_systemd_name_what_there_is() -> None:
    (install,) = [text for language, text in blocks() if language == "sh" and text.startswith("useradd")]
    for name in re.findall(r"deploy/[\w./-]+", install):
        assert (ROOT / name).exists(), name
    assert (ROOT / "deploy/systemd/kvserver.target").exists()
    for language, text in blocks():
        if language == "sh":
            assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0, text


def test_the_benchmark_s_command_is_understood(tmp_path: Path) -> None:
    command = block("sh", ".venv/bin/python -m tests.bench").split()
    done = subprocess.run(
        [sys.executable, *command[1:], "--parts", "of no name"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "of no name" in done.stderr, done


def test_every_example_is_run() -> None:
    source = Path(__file__).read_text()
    run = [tuple(pair) for pair in re.findall(r'\bblock\("(\w+)", "([^"]+)"\)', source)]
    run.append(("python", TOURS_FIRST))
    run += [("python", text) for _, text in python_examples()] + [("js", text) for _, text in javascript_examples()]
    for language, text in blocks():
        if language == "console":
            continue
        known = [beginning for each, beginning in run if each == language and text.startswith(beginning)]
        known += [beginning for beginning in ELSEWHERE if text.startswith(beginning)]
        assert known, f"a block of {language} that no test runs: {text[:60]}"
