"""Commands in a real terminal, while the server is started again under them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.harness import Server
from tests.system.kvserver.commands.programs import environ, run, succeed
from tests.system.kvserver.commands.terminals import Terminal


@pytest.fixture(scope="module")
def server(make_dir: Callable[[str], Path]) -> Iterator[Server]:
    """A server that keeps its port when it is started again."""
    with Server(make_dir("data"), "--shards", "1", "--workers", "1") as running:
        running.options = (*running.options, "--port", str(running.port))
        yield running


@pytest.fixture(autouse=True)
def empty(server: Server) -> None:
    succeed(server, "del", "--all", "--yes", "-q")


def test_a_watch_tells_that_the_connection_is_lost_and_goes_on(server: Server) -> None:
    succeed(server, "put", "flags/beta", '{"on":true}', "--type", "json")
    with Terminal("kvserver watch flags/ users/ --snapshot", environ(server)) as terminal:
        screen = terminal.see("changes follow")
        assert re.search(r'STATE   flags/beta +\{"on":true\} +json', screen), screen
        terminal.see("connected · live · 2 prefixes · ")
        succeed(server, "put", "users/ann", "a\x1b[2Jb\n", "--ttl", "1h")
        assert re.search(r"PUT     users/ann +a\\x1b\[2Jb\\n +text/plain +\+\d+ m?s", terminal.see("PUT"))
        server.stop()
        screen = terminal.see("connection lost")
        assert re.search(
            r"— connection lost \(.+\); retrying in .+, to continue after [0-9a-f]+\.\d+", screen.replace("\n", "")
        )
        terminal.see("waiting")
        server.start()
        succeed(server, "del", "users/ann")
        screen = terminal.see("DELETE  users/ann")
        assert "— resumed after " in screen and "GAP" not in screen
        assert screen.count("PUT ") == 1
        terminal.press("C-c")
        screen = terminal.see("status 130")
        assert "resume with --since " in screen and "live ·" not in screen and "Traceback" not in screen


def test_top_goes_on_and_obeys_its_keys(server: Server) -> None:
    for key in ("a", "b"):
        succeed(server, "put", key, "v")
    with Terminal("kvserver top --interval 200ms", environ(server)) as terminal:
        screen = terminal.see("q quit")
        assert re.search(r"kvserver \S+ · 127.0.0.1:\d+ · up .+ · sync always", screen)
        assert re.search(r"shard▾ +state +keys", screen) and re.search(r"^0 +up +2 ", screen, re.MULTILINE)
        terminal.press("3")
        terminal.see("ops/s▾")
        terminal.press("?")
        assert "keys" in terminal.see("q  quit")
        terminal.press("?")
        terminal.see("ops/s▾")
        terminal.press("p")
        terminal.see("PAUSED")
        terminal.press("p")
        server.stop()
        terminal.see("no answer: ")
        server.start()
        succeed(server, "put", "c", "v")
        screen = wait_until_gone(terminal, "no answer")
        terminal.see(" 3 ")
        terminal.press("q")
        screen = terminal.see("status 0")
        assert "Traceback" not in screen


def wait_until_gone(terminal: Terminal, words: str) -> str:
    """Wait until the terminal does not show `words` any more."""
    for _ in range(600):
        if words not in (screen := terminal.screen()):
            return screen
    raise AssertionError(terminal.screen())


def test_an_edit_meets_another_s_change(server: Server, tmp_path: Path) -> None:
    succeed(server, "put", "config", "one\ntwo\n", "--ttl", "1h")
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho "editing $1"\nread -r line < /dev/tty\necho "$line" >> "$1"\n')
    editor.chmod(0o755)
    with Terminal("kvserver edit config", environ(server, EDITOR=shlex.quote(str(editor)))) as terminal:
        terminal.see("editing ")
        server.stop()
        server.start()
        succeed(server, "put", "config", "one\nTWO\n", "--ttl", "1h")
        terminal.type("three")
        terminal.press("Enter")
        screen = terminal.see("[e/o/q]")
        assert "config was changed by another client while you edited" in screen
        assert "-TWO" in screen and "+two" in screen and "+three" in screen
        terminal.type("e")
        terminal.press("Enter")
        terminal.see("TWO\n")
        terminal.type("four")
        terminal.press("Enter")
        screen = terminal.see("status 0")
        assert "replaced config  revision " in screen
    assert succeed(server, "get", "config") == b"one\ntwo\nthree\nfour\n"
    assert b'"expires":"20' in succeed(server, "get", "config", "--json")


def test_an_edit_asks_before_it_stores_what_is_not_json(server: Server, tmp_path: Path) -> None:
    succeed(server, "put", "j", "{}", "--type", "json")
    with Terminal("kvserver edit j", environ(server, EDITOR="sh -c 'echo { > $1' sh")) as terminal:
        terminal.see("this is not JSON")
        terminal.type("q")
        terminal.press("Enter")
        screen = terminal.see("status 4")
    (name,) = re.findall(r"what you wrote is in (\S+\.json)", screen.replace("\n", ""))
    assert Path(name).read_text() == "{\n"
    Path(name).unlink()
    assert succeed(server, "get", "j") == b"{}"


def test_an_edit_where_nobody_can_be_asked(server: Server) -> None:
    assert run(server, "edit", "new", EDITOR="sh -c 'printf value > $1' sh").returncode == 0
    assert succeed(server, "get", "new") == b"value"
    done = run(server, "edit", "new", EDITOR="true")
    assert (done.returncode, done.stderr) == (0, b"new is as it was\n")
    done = run(server, "edit", "new", EDITOR="false")
    assert done.returncode == 1 and b"nothing was stored" in done.stderr
    done = run(server, "edit", "new", EDITOR="/nothing/here")
    assert done.returncode == 1 and b"cannot be run" in done.stderr
    script = "kvserver put new theirs; printf mine > $1"
    done = run(server, "edit", "new", EDITOR=f"sh -c {shlex.quote(script)} sh")
    assert done.returncode == 4 and b"-theirs" in done.stderr and b"+mine" in done.stderr
    (name,) = re.findall(rb"what you wrote is in (\S+)", done.stderr)
    assert Path(name.decode()).read_bytes() == b"mine"
    Path(name.decode()).unlink()
    assert succeed(server, "get", "new") == b"theirs"


def test_what_a_terminal_gets_is_escaped_and_colored(server: Server) -> None:
    succeed(server, "put", "a\x1b[31m", "red\x1b[31m\nline")
    with Terminal("kvserver get $'a\\x1b[31m'; kvserver ls; kvserver ls -l", environ(server)) as terminal:
        screen = terminal.see("status 0")
    value, second, name, head, row = screen.splitlines()[:5]
    assert (value, second, name) == ("red\\x1b[31m", "line", "a\\x1b[31m")
    assert head.split() == ["KEY", "SIZE", "TYPE", "EXPIRES", "CHANGED", "REVISION"]
    assert row.startswith("a\\x1b[31m    13  text/plain  -")


def test_a_delete_asks(server: Server) -> None:
    for key in ("ask/1", "ask/2"):
        succeed(server, "put", key, "v")
    for answer, status in (("n", 1), ("y", 0)):
        with Terminal("kvserver del --prefix ask/", environ(server)) as terminal:
            terminal.see("delete 2 keys that begin with ask/? [y/N]")
            terminal.type(answer)
            terminal.press("Enter")
            terminal.see(f"status {status}")
    assert succeed(server, "ls", "ask/") == b""


def test_bash_completes_keys_segment_by_segment(server: Server) -> None:
    for key in ("flags/beta", "flags/deep/x", "pkg:zlib", "with space"):
        succeed(server, "put", key, "v")
    shell = "bash --norc --noprofile -i"
    with Terminal(shell, environ(server)) as terminal:
        terminal.see("bash")
        terminal.type("source <(kvserver completion bash); echo loaded\n")
        terminal.see("\nloaded")
        for typed, keys, shown in (
            ("kvserver ge", ("Tab",), "kvserver get"),
            ("fl", ("Tab",), "kvserver get flags/"),
            ("d", ("Tab",), "kvserver get flags/deep/"),
            ("", ("Tab",), "kvserver get flags/deep/x"),
        ):
            terminal.type(typed)
            terminal.press(*keys)
            terminal.see(shown)
        terminal.press("C-u")
        terminal.type("kvserver get pkg:")
        terminal.press("Tab")
        terminal.see("kvserver get pkg:zlib")
        terminal.press("C-u")
        terminal.type("kvserver get with")
        terminal.press("Tab")
        terminal.see("kvserver get with\\ space")
        terminal.press("C-u")
        terminal.type("kvserver get --url localhost:1 fl")
        terminal.press("Tab")
        terminal.type("x")
        screen = terminal.see("localhost:1 flx")
        assert "Traceback" not in screen and "kvserver:" not in screen
