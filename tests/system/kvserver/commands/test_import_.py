"""`kvserver import` against the real server: within limits and grants, while others are killed, beside an export."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.commands import kvserver
from tests.system.harness import Server, wait_for
from tests.system.kvserver.commands.transfers import FAR, client_keys, command, environ, exported, rows, run, text_of

NewServer = Callable[..., Server]


def test_an_import_ends_at_the_first_bad_line(server: Server, tmp_path: Path) -> None:
    good = [{"key": f"good/{number}", "value": ""} for number in range(1500)]
    file = tmp_path / "some.ndjson"
    file.write_bytes(text_of(good) + b"\n" + b'{"key":"good/x"}\n' + text_of([{"key": "good/y", "value": ""}]))
    done = run(server, "import", file)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().splitlines() == [
        f"kvserver: {file}:1502: give exactly one of `value` and `value_base64`",
        "kvserver: stored 1,500 records; the whole file can be imported again",
    ]
    assert len(exported(server, "--prefix", "good/")) == 1500


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        (("import", "absent"), 1, "kvserver: absent cannot be read: No such file or directory"),
        (("import", "."), 1, "kvserver: . cannot be read: it is a directory, not a file"),
        (("export", "absent/file"), 1, "kvserver: absent/file cannot be written: cannot create a file in "),
        (("export", "file", "--url", "http://127.0.0.1:1"), 1, "kvserver: the server at http://127.0.0.1:1 cannot be "),
        (("export", "file", "--url", "ftp://localhost"), 2, "Error: the URL of a server is like http://localhost:8080"),
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
        "kvserver: stored 400 records; the whole file can be imported again",
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
    for number, status, word in ((signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "stopped by a signal")):
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
        assert second == f"kvserver: stored {len(client_keys(server)):,} records; the whole file can be imported again"

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
