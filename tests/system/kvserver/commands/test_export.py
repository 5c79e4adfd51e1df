"""`kvserver export` against the real server: exact, to files, pipes and devices."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.system.harness import Server
from tests.system.kvserver.commands.transfers import ODD, command, environ, exported, run, text_of


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
    full = run(server, "export", "/dev/full").stderr
    assert b"No space left on device; at most " in full, "nobody knows how much of it came out"
    assert b"it is a directory, not a file" in run(server, "export", tmp_path).stderr
