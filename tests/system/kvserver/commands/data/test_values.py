"""`get`, `put`, `del` and their kin: bytes, words and exit statuses, by the real program."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from tests.system.harness import Server
from tests.system.kvserver.commands.programs import PROGRAM, environ, fail, program, run, shell, succeed


@pytest.mark.parametrize(
    "value",
    [b"", b"hello", b"line\n", b"\0\xff\r\n", bytes(range(256)) * 20_000],
    ids=["empty", "word", "line", "bytes", "5 MB"],
)
def test_bytes_come_back_as_they_went_in(server: Server, value: bytes) -> None:
    done = program(server, "put", "bytes", "-", given=value)
    assert (done.returncode, done.stdout) == (0, b"")
    done = program(server, "get", "bytes")
    assert (done.returncode, done.stdout, done.stderr) == (0, value, b"")


def test_a_word_is_stored_as_text_and_a_file_as_it_is(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_bytes(b"\x00file")
    for words, value, kind in (
        (("word",), b"word", "text/plain; charset=utf-8"),
        ((f"@{file}",), b"\x00file", "application/octet-stream"),
        (("--text", "@word"), b"@word", "text/plain; charset=utf-8"),
        (("--text", "-"), b"-", "text/plain; charset=utf-8"),
        (("{}", "--type", "json"), b"{}", "application/json"),
    ):
        succeed(server, "put", "k", *words)
        entry = json.loads(succeed(server, "get", "k", "--json"))
        assert (entry["value"].encode(), entry["content_type"]) == (value, kind)


def test_words_are_for_people_and_go_to_standard_error(server: Server) -> None:
    succeed(server, "del", "--prefix", "words/", "--yes")
    done = run(server, "put", "words/a", "1")
    assert done.stdout == b"" and re.fullmatch(rb"created words/a  revision \d+\n", done.stderr)
    done = run(server, "put", "words/a", "2", "--json")
    assert json.loads(done.stdout) == {
        "key": "words/a",
        "revision": json.loads(done.stdout)["revision"],
        "created": False,
    }
    assert done.stderr == b""
    done = run(server, "put", "words/a", "3", "--previous", "-q")
    assert (done.stdout, done.stderr) == (b"2", b"")
    done = run(server, "del", "words/a", "-q")
    assert (done.stdout, done.stderr) == (b"", b"")


def test_conditions(server: Server) -> None:
    succeed(server, "put", "c", "1")
    revision = succeed(server, "get", "c", "--revision-only").decode().strip()
    assert fail(server, 4, "put", "c", "2", "--if-revision", "7") == f"kvserver: c is at revision {revision}, not 7\n"
    assert fail(server, 4, "put", "c", "2", "--create") == f"kvserver: c exists already, at revision {revision}\n"
    assert fail(server, 4, "put", "c-none", "2", "--if-revision", "7") == (
        "kvserver: c-none does not exist, so it is not at revision 7\n"
    )
    assert fail(server, 4, "del", "c", "--if-revision", "7") == f"kvserver: c is at revision {revision}, not 7\n"
    assert fail(server, 4, "touch", "c", "--persist", "--if-revision", "7").endswith("not 7\n")
    assert fail(server, 4, "patch", "c", "{}", "--if-revision", "7").endswith("not 7\n")
    succeed(server, "put", "c", "2", "--if-revision", revision)
    problem = json.loads(fail(server, 4, "put", "c", "3", "--if-revision", revision, "--json"))
    assert (problem["status"], problem["code"]) == (412, "precondition_failed")
    assert problem["revision"] > int(revision)


def test_absent_is_neither_empty_nor_unreachable(server: Server) -> None:
    succeed(server, "put", "empty", "")
    assert succeed(server, "get", "empty") == b""
    done = program(server, "get", "none")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"", b"kvserver: no such key: none\n")
    for words in (("get", "none"), ("get", "none", "--meta"), ("del", "none"), ("touch", "none", "--ttl", "5s")):
        assert fail(server, 3, *words) == "kvserver: no such key: none\n"
    problem = json.loads(fail(server, 3, "get", "none", "--json"))
    assert (problem["code"], problem["detail"]) == ("not_found", "no such key: none")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    done = program(None, "get", "none", "--url", f"localhost:{port}", "--patience", "0")
    assert done.returncode == 6 and b"nothing was done" in done.stderr
    said = fail(None, 6, "get", "none", "--url", f"localhost:{port}", "--patience", "0.1s", "--json")
    assert json.loads(said)["code"] == "cannot_connect"


def test_a_write_that_nobody_answers_is_unknown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"localhost:{silent.getsockname()[1]}"
        fail(None, 7, "put", "k", "v", "--url", url, "--patience", "0", "--timeout", "0.2s")
        fail(None, 6, "get", "k", "--url", url, "--patience", "0", "--timeout", "0.2s")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("get",), "Missing argument"),
        (("get", ""), "at least one byte"),
        (("get", "k", "--token", "kv_x"), "No such option"),
        (("get", "k", "--url", "ftp://x"), "URL of a server"),
        (("get", "k", "-o", "x", "--meta"), "leave out"),
        (("put", "k", "v", "--ttl", "5x"), "is not a duration"),
        (("put", "k", "v", "--ttl", "5s", "--expires", "2100-01-01T00:00:00Z"), "not both"),
        (("put", "k", "v", "--expires", "tomorrow"), "RFC 3339"),
        (("put", "k", "v", "--create", "--if-revision", "5"), "not both"),
        (("put", "k", "v", "--create", "--previous"), "replaces nothing"),
        (("put", "k", "--text"), "wants a VALUE"),
        (("put", "k", "v", "--if-revision", "x"), "is not a revision"),
        (("put", "k", "v", "--type", "no type"), "media type"),
        (("put", "k", "@"), "the name of a file"),
        (("incr", "k", "many"), "is not a valid integer"),
        (("patch", "k", "{"), "is not JSON"),
        (("touch", "k"), "give one of"),
        (("touch", "k", "--ttl", "5s", "--persist"), "give one of"),
        (("del",), "name keys"),
        (("del", "k", "--prefix", "p"), "name keys"),
        (("del", "--prefix", ""), "--all"),
        (("del", "a", "b", "--if-revision", "5"), "one KEY"),
        (("del", "k", "--dry-run"), "go with --prefix"),
        (("ls", "-l", "--count"), "give one of"),
        (("batch", "@x"), "cannot be read"),
    ],
)
def test_a_wrong_command_line_says_what_would_be_right(server: Server, words: tuple[str, ...], why: str) -> None:
    status = 1 if words[0] == "batch" else 2
    assert why in fail(server, status, *words)


def test_deleting_many_asks_first(server: Server) -> None:
    for key in ("many/1", "many/2", "other"):
        succeed(server, "put", key, "v")
    assert succeed(server, "del", "--prefix", "many/", "--dry-run") == b"would delete 2 keys: many/1, many/2\n"
    assert "say --yes" in fail(server, 2, "del", "--prefix", "many/")
    done = run(server, "del", "--prefix", "many/", "--yes", "--limit", "1", "--json")
    assert json.loads(done.stdout)["deleted"] == 1
    assert run(server, "del", "--prefix", "many/", "--yes").stderr == b"deleted 1 key\n"
    assert run(server, "del", "--prefix", "many/").stderr == b"there are no such keys\n"
    assert succeed(server, "ls", "other") == b"other\n"
    succeed(server, "put", "many/1", "v")
    done = run(server, "del", "many/1", "many/none", "other")
    assert (done.returncode, done.stderr) == (3, b"deleted many/1\nkvserver: no such key: many/none\ndeleted other\n")
    succeed(server, "del", "--all", "--yes")
    assert succeed(server, "ls") == b"" and succeed(server, "ls", "--count") == b"0\n"


def test_lists(server: Server) -> None:
    succeed(server, "del", "--all", "--yes")
    for key in ("a", "a/b", "a/c", "b\n"):
        succeed(server, "put", key, "v", "--type", "text/plain")
    assert succeed(server, "ls") == b"a\na/b\na/c\nb\n\n"
    assert succeed(server, "ls", "-0") == b"a\0a/b\0a/c\0b\n\0"
    assert succeed(server, "ls", "a/") == b"a/b\na/c\n"
    assert succeed(server, "ls", "--delimiter", "/") == b"a\na/\nb\n\n"
    assert succeed(server, "ls", "--reverse", "--limit", "2") == b"b\n\na/c\n"
    assert succeed(server, "ls", "--tree", "a") == b"a\na/\n  b\n  c\n"
    assert succeed(server, "ls", "--count", "a/") == b"2\n"
    lines = [json.loads(line) for line in succeed(server, "ls", "--json", "--delimiter", "/").splitlines()]
    assert [line.get("key", line.get("prefix")) for line in lines] == ["a", "a/", "b\n"]
    rows = [line.split("\t") for line in succeed(server, "ls", "-l").decode().splitlines()]
    assert [row[:4] for row in rows] == [[key, "1", "text/plain", "-"] for key in ("a", "a/b", "a/c", "b\\n")]


def test_a_long_list_comes_whole_and_in_order(server: Server) -> None:
    succeed(server, "del", "--all", "--yes")
    keys = [f"n/{number:05}" for number in range(2500)]
    text = "".join(json.dumps({"op": "put", "key": key, "value": ""}) + "\n" for key in keys)
    results = succeed(server, "batch", given=text.encode()).splitlines()
    assert len(results) == 2500 and all(json.loads(line)["status"] == 201 for line in results)
    assert succeed(server, "ls").decode().split() == keys
    assert succeed(server, "ls", "--reverse", "--limit", "1500").decode().split() == keys[:-1501:-1]


def test_changes_in_place(server: Server) -> None:
    succeed(server, "del", "--all", "--yes")
    assert succeed(server, "incr", "n") == b"1\n"
    assert succeed(server, "incr", "n", "-43") == b"-42\n"
    assert json.loads(succeed(server, "incr", "n", "--json")) == {"key": "n", "value": -41}
    assert succeed(server, "patch", "p", '{"a":1,"b":[]}') == b'{"a":1,"b":[]}\n'
    assert succeed(server, "patch", "p", "-", given=b'{"a":null}') == b'{"b":[]}\n'
    assert "whole number" in fail(server, 4, "incr", "p")
    succeed(server, "touch", "n", "--ttl", "1h")
    assert json.loads(succeed(server, "get", "n", "--json"))["expires"]
    succeed(server, "touch", "n", "--persist")
    assert json.loads(succeed(server, "get", "n", "--json"))["expires"] is None


def test_batches(server: Server, tmp_path: Path) -> None:
    succeed(server, "del", "--all", "--yes")
    document = {
        "ops": [{"op": "incr", "key": "{c}n"}, {"op": "put", "key": "{c}x", "value": "", "if_revision": 9}],
        "atomic": True,
    }
    done = run(server, "batch", given=json.dumps(document).encode())
    assert done.returncode == 4 and b"nothing was done" in done.stderr
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == [424, 412]
    (tmp_path / "ops").write_text('{"op":"put","key":"a","value_base64":"AP8="}\n\n{"op":"get","key":"a"}\n')
    results = [json.loads(line) for line in succeed(server, "batch", str(tmp_path / "ops")).splitlines()]
    assert results[1]["value_base64"] == "AP8="
    assert succeed(server, "batch", given=b"") == b""
    assert "line 2: op is one of" in fail(server, 2, "batch", given=b'{"op":"get","key":"a"}\n{"op":"got","key":"a"}\n')
    done = run(server, "batch", given=b'[{"op":"get","key":"none"},{"op":"get","key":"a"}]')
    assert done.returncode == 3 and len(done.stdout.splitlines()) == 2


def test_a_value_into_a_file(server: Server, tmp_path: Path) -> None:
    succeed(server, "put", "k", "value")
    file = tmp_path / "out"
    assert succeed(server, "get", "k", "-o", str(file)) == b""
    assert file.read_bytes() == b"value"
    assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0
    assert "cannot be written" in fail(server, 1, "get", "k", "-o", str(tmp_path / "none" / "out"))


def test_a_pipe_that_nobody_reads_ends_it_silently(server: Server) -> None:
    succeed(server, "put", "large", "-", given=b"x" * 3_000_000)
    done = shell(server, "kvserver get large | true; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) == (141, b"")
    done = shell(server, "kvserver get large | head -c 3")
    assert (done.stdout, done.stderr) == (b"xxx", b"")
    done = shell(server, "kvserver ls | true; exit ${PIPESTATUS[0]}")
    assert done.stderr == b"" and done.returncode in (0, 141)


def test_streams_that_are_closed_or_full(server: Server) -> None:
    succeed(server, "put", "k", "v")
    for script, status, said in (
        ("kvserver put k - <&-", 1, b"kvserver: standard input is closed\n"),
        ("kvserver batch <&-", 1, b"kvserver: standard input is closed\n"),
        ("kvserver get k >&-", 1, b"kvserver: standard output is closed\n"),
        ("kvserver get k >/dev/full", 1, b"kvserver: cannot write to standard output: No space left on device\n"),
        ("kvserver put k v >&-", 0, b""),
        ("kvserver put k v 2>&-", 0, b""),
        ("kvserver get none 2>/dev/full", 3, b""),
    ):
        done = shell(server, script)
        assert done.returncode == status, (script, done)
        assert said == done.stderr if said else b"Traceback" not in done.stderr, (script, done)
    assert shell(server, "kvserver get k <&-").stdout == b"v"


def test_a_token_is_read_from_a_file_or_the_environment_alone(server: Server, tmp_path: Path) -> None:
    succeed(server, "put", "k", "v")
    (tmp_path / "token").write_text("kv_anything\n")
    assert succeed(server, "get", "k", "--token-file", str(tmp_path / "token")) == b"v"
    assert "holds no token" in fail(server, 2, "get", "k", KVSERVER_TOKEN="two words")


@pytest.mark.parametrize("stop", [2, 15])
def test_ctrl_c(stop: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"localhost:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [PROGRAM, "get", "k", "--url", url], stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environ()
        )
        with silent.accept()[0] as connection:
            connection.recv(1000)
            os.kill(process.pid, stop)
            out, said = process.communicate(timeout=20)
    if stop == 2:
        assert (process.returncode, out, said.strip()) == (130, b"", b"kvserver: interrupted")
    else:
        assert (process.returncode, said) == (-15, b"")
