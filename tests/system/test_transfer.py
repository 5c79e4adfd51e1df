"""`kvserver import` and `export` against the real server: exact, within limits and grants, beside kills."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from kvserver.cli import main
from kvserver.commands import export
from tests.system.commands import kvserver
from tests.system.harness import Server, wait_for

NewServer = Callable[..., Server]

FAR = "2100-01-01T00:00:00.007Z"
ODD = [
    {"key": "../a//b%2F?c#d", "value": ""},
    {"key": "\u2028\u0085\n\r\t\x00", "value": "a line\u2028 and\u0085 another\n"},
    {"key": "\U0001f600" * 127, "value": "\u00e9", "content_type": 'text/plain; a="\\"b"', "expires": FAR},
    {"key": "bytes", "value_base64": b64encode(bytes(range(256))).decode(), "content_type": "image/png"},
    {"key": "twice", "value": "first"},
    {"key": "twice", "value": "then", "revision": 5, "size": 5, "created": None, "modified": FAR, "expires": None},
    {"key": "gone", "value": "v", "expires": "2001-01-01T00:00:00Z"},
]


@pytest.fixture(autouse=True)
def signals_of_this_process_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (importlib.import_module("kvserver.commands.import_"), export):
        monkeypatch.setattr(module, "interruptible", lambda: None)


def run(server: Server, *arguments: object, given: bytes = b"", token: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run a command: with standard input as a process, else in this one, which costs less."""
    variables = {"KVSERVER_URL": server.url, "KVSERVER_TOKEN": token}
    words = [str(argument) for argument in arguments]
    if given:
        return subprocess.run(command(*words), input=given, capture_output=True, timeout=60, env=os.environ | variables)
    done = CliRunner().invoke(main, words, env=variables, catch_exceptions=False)
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout_bytes, done.stderr_bytes)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "kvserver", *map(str, arguments)]


def environ(server: Server) -> dict[str, str]:
    return os.environ | {"KVSERVER_URL": server.url}


def text_of(records: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def exported(server: Server, *arguments: object, token: str = "") -> list[dict[str, Any]]:
    done = run(server, "export", "-", *arguments, token=token)
    assert (done.returncode, done.stderr) == (0, b""), done
    return [json.loads(line) for line in done.stdout.split(b"\n")[:-1]]


def test_what_is_exported_is_what_was_imported(server: Server, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"\n" + text_of(ODD) + b" \r\n")
    done = run(server, "import", first)
    assert (done.returncode, done.stderr) == (0, b"")
    assert re.fullmatch(rb"stored 6 records in [0-9.]+ s, left out 1 record expired by now\n", done.stdout)

    records = {record["key"]: record for record in exported(server)}
    assert list(records) == sorted({record["key"] for record in ODD} - {"gone"}, key=str.encode)
    assert records["\U0001f600" * 127] == ODD[2]
    assert records["bytes"] == ODD[3] | {"expires": None}
    plain = {"content_type": "application/octet-stream", "expires": None}
    assert records["twice"] == {"key": "twice", "value": "then", **plain}
    assert records["../a//b%2F?c#d"] == ODD[0] | plain

    second.write_text("something else")
    link = tmp_path / "link"
    link.symlink_to(second)
    assert run(server, "export", link).stdout.startswith(b"exported 5 records to ")
    assert link.is_symlink() and second.stat().st_mode & 0o777 == 0o600
    with server.client() as client:
        client.delete("/v1/kv", params={"all": "true"}).raise_for_status()
    assert run(server, "import", "-", given=second.read_bytes()).returncode == 0
    assert run(server, "export", "-").stdout == second.read_bytes()
    assert [record["key"] for record in exported(server, "--prefix", "b")] == ["bytes"]
    # What is no file, such as a pipe, is written to, not replaced.
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE)
    assert run(server, "export", fifo).returncode == 0
    assert reader.communicate(timeout=20) == (second.read_bytes(), None)
    assert fifo.is_fifo()
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second", "link", "fifo"}


def test_an_import_ends_at_the_first_bad_line(server: Server, tmp_path: Path) -> None:
    good = [{"key": f"good/{number}", "value": ""} for number in range(1500)]
    file = tmp_path / "some.ndjson"
    file.write_bytes(text_of(good) + b"\n" + b'{"key":"good/x"}\n' + text_of([{"key": "good/y", "value": ""}]))
    done = run(server, "import", file)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().splitlines() == [
        f"kvserver: {file}:1502: exactly one of `value` and `value_base64` is wanted",
        "kvserver: stored 1,500 records; all of it can be imported again",
    ]
    assert len(exported(server, "--prefix", "good/")) == 1500


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        (("import", "absent"), 1, "kvserver: absent cannot be read: No such file or directory"),
        (("import", "."), 1, "kvserver: . cannot be read: it is a directory, not a file"),
        (("export", "absent/file"), 1, "kvserver: absent/file cannot be written: no file can be made in "),
        (("export", "file", "--url", "http://127.0.0.1:1"), 1, "kvserver: the server at http://127.0.0.1:1 cannot be "),
        (("export", "file", "--url", "localhost:8080"), 2, "Error: the URL of a server is like http://localhost:8080"),
        (("export", "file", "--url", "http://me:secret@[::1]"), 2, "Error: the URL of a server is like http://local"),
        (("export", "-", "--token-file", "absent"), 2, "Error: cannot read the token: No such file or directory"),
        (("export", "-", "--token-file", "empty"), 2, "Error: empty holds no token"),
        (("export", "-", "--prefix", "\udcff"), 2, "Error: the prefix is not UTF-8"),
    ],
)
def test_what_cannot_be_done_is_said(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], status: int, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").touch()
    done = run(server, *arguments)
    assert (done.returncode, done.stdout) == (status, b"")
    assert done.stderr.decode().splitlines()[-1].startswith(why)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"], "and nothing is left of it"


def test_limits_and_grants_of_the_server_are_kept_to(new_server: NewServer, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    server = new_server(
        "--tokens", str(tokens), "--max-batch", "16KiB", "--max-value", "40KiB", "--shards", "2", "--workers", "1"
    )
    token = {
        name: kvserver(server, "token", "new", name, "--grant", grant, "--tokens", tokens, run_dir=False).stdout.strip()
        for name, grant in (("all", "read,write"), ("app", "write:app/"), ("reader", "read:app/"))
    }
    server.start()
    rest = {"value": "v" * 100, "content_type": "text/plain", "expires": None}
    records = [{"key": f"app/{number:03}", **rest} for number in range(400)]
    # One that no batch takes goes by itself; one that has expired does not count there either.
    large = {"key": "app/large", "value": "w" * 40_000, "content_type": "text/a", "expires": FAR}
    late = large | {"key": "app/late", "expires": "2001-01-01T00:00:00Z"}
    done = run(server, "import", "-", given=text_of([*records, large, late]), token=token["app"])
    assert re.fullmatch(rb"stored 401 records in [0-9.]+ s, left out 1 record expired by now\n", done.stdout), done
    assert exported(server, token=token["reader"]) == [*records, large]

    others = [{"key": f"other/{n}", "value": ""} for n in range(5)]
    done = run(server, "import", "-", given=text_of([*records, *others]), token=token["app"])
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        'kvserver: standard input:401: the server answers 403: the token does not grant write on the key "other/0"',
        "kvserver: stored 400 records; all of it can be imported again",
    ]
    done = run(server, "import", "-", given=text_of([large | {"value": "w" * 41_000}]), token=token["all"])
    assert done.stderr.startswith(b"kvserver: standard input:1: the server at http"), done
    assert b"answers 413: length limit exceeded. " in done.stderr
    assert exported(server, token=token["all"]) == [*records, large], "nothing else came in"

    for wrong, why in (
        ("", "answers 401: This request needs a token. Send the header `Authorization: Bearer <token>`"),
        (token["app"][:-1] + "?", "answers 401: The token is not known. "),
        (token["app"], "answers 403: This request is not allowed. "),
    ):
        (tmp_path / "token").write_text(wrong + "\n")
        done = run(server, "export", tmp_path / "file", *(["--token-file", tmp_path / "token"] if wrong else []))
        assert done.returncode == 1
        assert done.stderr.decode().startswith(f"kvserver: the server at {server.url} {why}")
        assert not (wrong and wrong.encode() in done.stderr)
    assert not (tmp_path / "file").exists()


def rows(server: Server, kind: str) -> list[dict[str, Any]]:
    """What the status says of `kind`, once all shards are up."""

    def look() -> list[dict[str, Any]]:
        with contextlib.suppress(httpx.TransportError, httpx.HTTPStatusError):  # who was killed may not be back
            status = server.status()
            if all(shard["state"] == "up" for shard in status["shards"]):
                return list(status[kind])
        return []

    return list(wait_for(look, "a status", 40))


def test_killed_processes_cost_an_import_and_an_export_nothing(new_server: NewServer, tmp_path: Path) -> None:
    server = new_server("--shards", "2", "--workers", "2").start()
    records = [
        {"key": f"{n:06}", "value": f"{n}" * 40, "content_type": "text/plain", "expires": FAR if n % 7 == 0 else None}
        for n in range(30_000)
    ]
    pipe = subprocess.PIPE
    importing = subprocess.Popen(command("import", "-"), env=environ(server), stdin=pipe, stdout=pipe, stderr=pipe)
    assert importing.stdin is not None
    kills, chance = 0, random.Random(5)
    for start in range(0, len(records), 500):
        importing.stdin.write(text_of(records[start : start + 500]))
        if start % 5000 == 4500:  # what pipes hold and what is on its way is less than that
            victims = rows(server, "workers") if kills % 2 else [chance.choice(rows(server, "shards"))]
            for victim in victims:
                os.kill(victim["pid"], signal.SIGKILL)
            kills += 1
    out, err = importing.communicate(timeout=60)
    assert (importing.returncode, err) == (0, b""), err
    assert out.startswith(b"stored 30,000 records in ")
    assert kills == 6

    workers = rows(server, "workers")
    exporting = subprocess.Popen(command("export", "-"), env=environ(server), stdout=subprocess.PIPE)
    assert exporting.stdout is not None
    text = exporting.stdout.read1(1 << 16)
    for worker in workers:  # one of which has begun the list, which is more than pipes hold
        os.kill(worker["pid"], signal.SIGKILL)
    with exporting.stdout:
        text += exporting.stdout.read()
    assert exporting.wait(20) == 0
    assert [json.loads(line) for line in text.splitlines()] == records


def test_a_signal_ends_them_with_nothing_half_done(server: Server, tmp_path: Path) -> None:
    with server.client() as client:
        client.delete("/v1/kv", params={"all": "true"}).raise_for_status()
    for number, status, word in ((signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "told to end")):
        importing = subprocess.Popen(
            command("import", "-"), env=environ(server), stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert importing.stdin is not None and importing.stderr is not None
        importing.stdin.write(text_of([{"key": f"{n}", "value": "v" * 5000} for n in range(1000)]))
        importing.stdin.flush()
        wait_for(lambda: len(client_keys(server)) >= 800, "what fills batches")
        importing.send_signal(number)
        assert importing.wait(20) == status
        first, second = importing.stderr.read().decode().splitlines()
        importing.stdin.close()
        importing.stderr.close()
        assert first == f"kvserver: {word}"
        assert second == f"kvserver: stored {len(client_keys(server)):,} records; all of it can be imported again"

    target = tmp_path / "target"
    target.write_text("as it was")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        exporting = subprocess.Popen(command("export", target, "--url", url), stderr=subprocess.PIPE)
        assert exporting.stderr is not None
        wait_for(lambda: len(list(tmp_path.iterdir())) == 2, "a file that has begun")
        exporting.terminate()
        assert exporting.wait(20) == 143
    with exporting.stderr:
        assert (exporting.stderr.read(), list(tmp_path.iterdir()), target.read_text()) == (b"", [target], "as it was")


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_an_export_to_standard_output_is_all_that_stands_there(server: Server, tmp_path: Path, name: str) -> None:
    """By whatever name: behind what stood there, before what comes, and without a word of the command's."""
    with server.client() as client:
        client.delete("/v1/kv", params={"all": "true"}).raise_for_status()
        client.put("/k", content="v").raise_for_status()
    path = tmp_path / "all"
    for mode in ("w", "a"):
        with path.open(mode) as file:
            file.write("before\n")
            file.flush()
            assert subprocess.run(command("export", name), stdout=file, env=environ(server), timeout=60).returncode == 0
            file.seek(0, os.SEEK_END)
            file.write("behind\n")
    first, record, last, *again = path.read_text().splitlines()
    assert (first, json.loads(record)["key"], last) == ("before", "k", "behind")
    assert again == [first, record, last]
    piped = subprocess.run(command("export", name), capture_output=True, env=environ(server), timeout=60)
    assert (piped.stdout.decode().splitlines(), piped.stderr) == ([record], b"")


def test_an_export_to_a_fifo_or_a_device_leaves_it_there(server: Server, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with subprocess.Popen(["cat", tmp_path / "fifo"], stdout=subprocess.PIPE) as reader:
        assert run(server, "export", tmp_path / "fifo").returncode == 0
        came, _ = reader.communicate(timeout=20)
    assert came == run(server, "export", "-").stdout
    assert (tmp_path / "fifo").is_fifo()
    assert run(server, "export", "/dev/null").returncode == 0
    assert Path("/dev/null").is_char_device()
    assert b"No space left on device" in run(server, "export", "/dev/full").stderr
    assert b"it is a directory, not a file" in run(server, "export", tmp_path).stderr


def client_keys(server: Server) -> list[str]:
    with server.client() as client:
        keys: list[str] = client.get("/keys").json()
        return keys
