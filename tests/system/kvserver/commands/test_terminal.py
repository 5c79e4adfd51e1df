"""Whatever a server, a file or a command line holds: a terminal shows what commands say of it, and obeys nothing."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Final

import msgspec
import pytest

from tests.system.harness import Server, wait_for

HOSTILE: Final = (
    "\x1b]0;owned\x07\x1b[2J\x1b[8m\x08\x7f\x85\x9b31m\u061c\u200e\u200f\u202a\u202eevil\u2066\u2069\r\n\u2028x"
)
IN_A_NAME: Final = HOSTILE.replace("\n", "")
OBEYED: Final = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What no line may have; a command ends its lines itself."""


class Hostile(BaseHTTPRequestHandler):
    """Answers everything with the status in its path (207: with what is no answer), and escapes in all that it says."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status = int(self.path.split("/")[1])
        batch = self.command == "POST"
        if status == 207:
            body, kind = b"no batch and no line: " + HOSTILE.encode(), "text/plain"
            status = 200
        elif status == 200 and batch:
            result = {"status": 409, "code": HOSTILE, "detail": HOSTILE}
            body, kind = msgspec.msgpack.encode({"results": [result]}), "application/vnd.msgpack"
        elif status == 200:
            item = {"key": HOSTILE, "content_type": HOSTILE, "expires": HOSTILE, "value": HOSTILE}
            error = {"error": {"title": HOSTILE, "detail": HOSTILE}, "next": HOSTILE}
            lines = [error] if "after=" in self.path else [item, error]  # else it went on for ever
            body = b"".join(json.dumps(each, ensure_ascii=False).encode() + b"\n" for each in lines)
            kind = "application/x-ndjson"
        else:
            problem = dict.fromkeys(("title", "detail", "hint", "code"), HOSTILE)
            body, kind = json.dumps(problem, ensure_ascii=False).encode(), "application/problem+json"
        if status == 404:
            body = b"no problem at all"
        self.send_response(status, IN_A_NAME.replace("\r", "").encode().decode("latin-1"))
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def hostile() -> Iterator[str]:
    """The URL of a server that means ill."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def files(make_dir: Callable[[str], Path]) -> dict[str, str]:
    """Files with names and contents that mean ill."""
    place = make_dir("files") / IN_A_NAME
    place.mkdir()
    tokens, lines, bad_lines = place / "tokens.toml", place / "lines", place / "bad lines"
    quoted = json.dumps("p" + HOSTILE.replace("\x7f", ""), ensure_ascii=True)
    tokens.write_text(
        f'[[token]]\nname = "t"\nsha256 = "{"ab" * 32}"\ngrants = [{{ prefix = {quoted}, allow = ["read"] }}]\n'
    )
    lines.write_text(json.dumps({"key": HOSTILE, "value": HOSTILE}) + "\n")
    bad_lines.write_text(json.dumps({"key": "k", HOSTILE: HOSTILE}, ensure_ascii=False) + "\n")
    doubled = place / "doubled"
    doubled.write_text(f'{{"key":"k",{json.dumps(HOSTILE)}:1,{json.dumps(HOSTILE)}:2}}\n')
    bad_tokens = place / "bad.toml"
    bad_tokens.write_text(f"[[token]]\nname = {quoted}\nsha256 = 1\n[{quoted}]\n")
    store = place / "store"
    (store / "log").mkdir(parents=True)
    (store / "manifest").write_text(json.dumps({"format": HOSTILE, "store": HOSTILE, HOSTILE: 1}, ensure_ascii=False))
    undecodable = os.fsdecode(os.fsencode(place) + b"/\xff\x9b")
    return {
        "place": str(place),
        "tokens": str(tokens),
        "lines": str(lines),
        "bad_lines": str(bad_lines),
        "doubled": str(doubled),
        "bad_tokens": str(bad_tokens),
        "store": str(store),
        "undecodable": undecodable,
    }


OF_CLIENTS: Final = [
    ["get", "{hostile}"],
    ["put", "{hostile}", "{hostile}", "--type", "{hostile}"],
    ["put", "k", "@{place}/none"],
    ["del", "{hostile}"],
    ["del", "--prefix", "{hostile}", "--dry-run"],
    ["ls", "{hostile}"],
    ["incr", "{hostile}", "5"],
    ["patch", "{hostile}", "5"],
    ["touch", "{hostile}", "--persist"],
    ["batch", "{lines}"],
    ["watch", "{hostile}", "--since", "{hostile}"],
    ["wait", "{hostile}", "--equals", "{hostile}", "--within", "0.2s"],
    ["lock", "{hostile}", "--within", "0.2s", "--", "{hostile}"],
    ["status"],
    ["ping"],
]
COMMANDS: Final = [
    *([words[0], "--url", "{url}/200", *words[1:]] for words in OF_CLIENTS),
    *(["get", "k", "--url", f"{{url}}/{status}"] for status in (207, 400, 401, 404, 500, 507)),
    *(["put", "k", "v", "--json", "--url", f"{{url}}/{status}"] for status in (207, 400, 401, 500, 507)),
    ["get", "k", "--url", "{hostile}"],
    ["get", "k", "--token-file", "{lines}"],
    ["get", "k", "--{hostile}"],
    ["put", "k", "v", "--ttl", "{hostile}"],
    ["put", "k", "v", "--if-revision", "{hostile}"],
    ["incr", "k", "{hostile}"],
    ["watch", "--cursor-file", "{lines}"],
    ["sdk", "{hostile}"],
    ["completion", "{hostile}"],
    ["import", "{lines}", "--url", "{url}/200"],
    ["import", "{lines}", "--url", "{url}/207"],
    *(["import", "{lines}", "--url", f"{{url}}/{status}"] for status in (400, 401, 404, 500, 507)),
    *(["export", "{place}/out", "--url", f"{{url}}/{status}"] for status in (200, 207, 400, 401, 404, 500)),
    ["import", "{bad_lines}", "--url", "{url}/200"],
    ["import", "{doubled}", "--url", "{url}/200"],
    ["import", "{place}", "--url", "{url}/200"],
    ["import", "{undecodable}", "--url", "{url}/200"],
    ["import", "{lines}", "--url", "http://{hostile}/"],
    ["import", "{lines}", "--url", "{hostile}"],
    ["import", "{lines}", "--token-file", "{place}"],
    ["import", "{lines}", "--token-file", "{lines}"],
    ["export", "{undecodable}/{hostile}", "--url", "{url}/200"],
    ["export", "-", "--prefix", "{undecodable}"],
    ["backup", "{place}/b", "--data-dir", "{store}"],
    ["backup", "{undecodable}", "--data-dir", "{undecodable}"],
    ["restore", "{store}", "--data-dir", "{place}/r"],
    ["restore", "{undecodable}", "--data-dir", "{undecodable}"],
    ["restore", "{store}", "--until", "{hostile}"],
    ["restore", "{place}/b", "--data-dir", "{place}/new"],
    ["check", "{store}"],
    ["check", "--data-dir", "{store}"],
    ["check", "--data-dir", "{undecodable}", "--repair"],
    ["stop", "--data-dir", "{store}", "--release"],
    ["stop", "--data-dir", "{undecodable}"],
    ["token", "list", "--tokens", "{tokens}"],
    ["token", "list", "--tokens", "{bad_tokens}"],
    ["token", "new", "{hostile}", "--grant", "read", "--tokens", "{tokens}"],
    ["token", "new", "n", "--grant", "{hostile}", "--tokens", "{tokens}"],
    ["token", "new", "n", "--grant", "read:{undecodable}", "--tokens", "{tokens}"],
    ["token", "new", "n", "--grant", "read", "--tokens", "{bad_tokens}"],
    ["token", "revoke", "{hostile}", "--tokens", "{tokens}"],
    ["token", "revoke", "n", "--tokens", "{undecodable}"],
    ["token", "{hostile}"],
    ["{hostile}"],
    ["--{hostile}"],
    ["serve", "--{hostile}"],
    ["serve", "{hostile}"],
    ["serve", "--port", "{hostile}"],
    ["serve", "--host", "{hostile}"],
    ["serve", "--origins", "{hostile}"],
    ["serve", "--data-dir", "{store}", "--port", "0", "--metrics-port", "0"],
    ["serve", "--data-dir", "{lines}", "--port", "0", "--metrics-port", "0"],
    ["serve", "--tokens", "{bad_tokens}", "--data-dir", "{place}/d", "--port", "0", "--metrics-port", "0"],
]


def command(parts: list[str], url: str, files: dict[str, str]) -> list[str]:
    words = files | {"url": url, "hostile": HOSTILE}
    filled = [re.sub(r"\{(\w+)\}", lambda found: words[found[1]], part) for part in parts]
    patience = ["--patience", "0.2"] if "--url" in filled or filled[0] in ("import", "export") else []
    name, *words = filled
    return [sys.executable, "-m", "kvserver", name, *patience, *words]


@pytest.mark.parametrize("parts", COMMANDS, ids=" ".join)
def test_nothing_reaches_a_terminal_raw(parts: list[str], hostile: str, files: dict[str, str]) -> None:
    argv = command(parts, hostile, files)
    done = subprocess.run(
        argv,
        capture_output=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        cwd=files["place"],
        env=os.environ | {"NO_PROXY": "*", "KVSERVER_LOG_FORMAT": "text"},
    )
    told = (done.stdout + done.stderr).decode()  # UTF-8, whatever it quotes
    assert told.strip() and b"Traceback" not in done.stderr, told
    assert not OBEYED.search(told), repr(told)


@pytest.mark.parametrize("variable", ["KVSERVER_PORT", "KVSERVER_DATA_DIR", "KVSERVER_TOKEN", "KVSERVER_URL"])
def test_nor_does_the_environment(variable: str, hostile: str, files: dict[str, str]) -> None:
    argv = [sys.executable, "-m", "kvserver", "export", "-", "--patience", "0"]
    environ = {name: text for name, text in os.environ.items() if not name.startswith("KVSERVER_")}
    environ |= {"NO_PROXY": "*", variable: HOSTILE.replace("\0", "")}
    done = subprocess.run(argv, capture_output=True, env=environ, timeout=60, cwd=files["place"])
    assert done.returncode and done.stderr and not OBEYED.search((done.stdout + done.stderr).decode())


def on_a_terminal(argv: list[str], place: str) -> str:
    """What a terminal gets of a command."""
    ours, its = pty.openpty()
    with subprocess.Popen(argv, stdin=its, stdout=its, stderr=its, cwd=place, env=os.environ | {"NO_PROXY": "*"}):
        os.close(its)
        told = b""
        try:
            while piece := os.read(ours, 65536):
                told += piece
        except OSError:  # nobody has the other end any more
            pass
    os.close(ours)
    return told.decode()


@pytest.mark.parametrize("parts", [["export", "-", "--url", "{url}/200"], ["import", "{lines}", "--url", "{url}/200"]])
def test_nor_do_records_and_bars(parts: list[str], hostile: str, files: dict[str, str]) -> None:
    told = on_a_terminal(command(parts, hostile, files), files["place"])
    assert "evil" in told
    for part in ("\x1b]0;", "\x07", "\x1b[8m", "\x9b", "\x85", "\x7f", "\x08", "\u202e", "\u2066", "\u061c", "\u200f"):
        assert part not in told, repr(told)


def test_what_is_shown_on_a_terminal_can_be_imported(hostile: str, files: dict[str, str]) -> None:
    told = on_a_terminal(command(["export", "-", "--url", "{url}/200"], hostile, files), files["place"])
    line = next(line for line in told.splitlines() if '"key"' in line)
    assert json.loads(line[line.index("{") :])["value"] == HOSTILE


def test_the_server_s_banner_and_its_log(tmp_path: Path) -> None:
    server = Server(tmp_path / IN_A_NAME, "--access-log", "--log-level", "trace")
    with server.start():
        with server.connect() as connection:
            connection.sendall(b"GET /\x1b[2J HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")
        assert "evil" in server.banner and not OBEYED.search(server.banner)
        wait_for(lambda: "GET /" in server.log(), "the line of the request")
        assert not OBEYED.search(server.log())
