"""`watch`, `wait` and `lock` by the real program: what comes, what is kept, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.harness import Server, wait_for
from tests.system.kvserver.commands.programs import PROGRAM, environ, fail, run, succeed


@contextmanager
def running(server: Server, *words: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """The program, until the end of the block."""
    process = subprocess.Popen(
        [PROGRAM, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ(server, **more),
        stdin=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines_of(process: subprocess.Popen[str], count: int) -> list[str]:
    """The next lines of its data."""
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]


@pytest.fixture(autouse=True)
def empty(server: Server) -> None:
    succeed(server, "del", "--all", "--yes", "-q")


def test_the_state_and_then_what_happens(server: Server) -> None:
    succeed(server, "put", "flags/a", "1")
    succeed(server, "put", "other", "1")
    with running(server, "watch", "flags/", "--snapshot", "--json", "--count", "5") as watch:
        documents = [json.loads(line) for line in lines_of(watch, 3)]
        assert documents[0] == {"type": "snapshot", "first": True} and documents[2]["type"] == "snapshot_end"
        assert (documents[1]["key"], documents[1]["value"], "op" in documents[1]) == ("flags/a", "1", False)
        succeed(server, "put", "flags/a", "2", "--ttl", "1h")
        succeed(server, "put", "other", "2")
        succeed(server, "touch", "flags/a", "--persist")
        succeed(server, "del", "flags/a")
        succeed(server, "incr", "flags/n")
        events = [json.loads(line) for line in lines_of(watch, 4)]
        assert [event["op"] for event in events] == ["put", "touch", "delete", "put"]
        assert events[0]["expires"] and events[1]["expires"] is None and events[2]["cause"] == "request"
        assert watch.wait(20) == 0


def test_lines_for_people(server: Server) -> None:
    succeed(server, "put", "k", "v\x1b[2J")
    done = run(server, "watch", "--snapshot", "--until-synced")
    assert done.returncode == 0
    assert done.stdout.decode().split()[1:4] == ["STATE", "k", "v\\x1b[2J"]
    assert "— the state, key by key —" in done.stderr.decode() and "changes follow" in done.stderr.decode()
    done = run(server, "watch", "--snapshot", "--until-synced", "--no-values", "-q")
    assert done.stdout.decode().split()[3:5] == ["5", "B"] and done.stderr == b""


def test_wishes_are_passed_on(server: Server) -> None:
    with running(
        server, "watch", "--key", "a", "--ops", "put,delete:prefix", "--activity", "--json", "--count", "3"
    ) as watch:
        wait_for(lambda: server.status()["gateways"][0]["clients"], "the watch")
        for words in (("put", "b", "1"), ("put", "a", "1"), ("del", "a"), ("get", "a")):
            run(server, *words)
        documents = [json.loads(line) for line in lines_of(watch, 2)]
        assert [document["op"] for document in documents] == ["put", "read"]
        assert documents[1]["type"] == "activity" and documents[1]["key"] == "a"


def test_ctrl_c_tells_where_to_go_on(server: Server) -> None:
    with running(server, "watch", "--json", "--snapshot") as watch:
        lines_of(watch, 2)
        succeed(server, "put", "seen", "1")
        assert json.loads(lines_of(watch, 1)[0])["key"] == "seen"
        watch.send_signal(signal.SIGINT)
        out, said = watch.communicate(timeout=20)
    assert (watch.returncode, out) == (130, "")
    (line,) = said.strip().splitlines()
    succeed(server, "put", "unseen", "2")
    words = line.split()
    assert words[:3] == ["resume", "with", "--since"]
    done = run(server, "watch", *words[2:], "--json", "--count", "1")
    assert [json.loads(each)["key"] for each in done.stdout.splitlines()] == ["unseen"]


def test_a_cursor_file_goes_on_where_the_last_one_ended(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "cursor"
    words = ("watch", "--cursor-file", str(file), "--snapshot", "--json")
    assert succeed(server, *words, "--until-synced").count(b"\n") == 2
    cursor = file.read_text()
    assert cursor.endswith("\n") and cursor.count(".") == 1
    for number in range(3):
        succeed(server, "put", f"k{number}", "v")
    found = [json.loads(line)["key"] for line in succeed(server, *words, "--count", "2").splitlines()]
    assert found == ["k0", "k1"]
    found = [json.loads(line)["key"] for line in succeed(server, *words, "--count", "1").splitlines()]
    assert found in (["k2"], ["k0"])  # at least once: a message is handled whole, or again
    assert [path.name for path in tmp_path.iterdir()] == ["cursor"]


@pytest.mark.parametrize("content", [b"two words", b"\xff", b"x" * 9000])
def test_a_file_that_holds_no_cursor_is_refused(server: Server, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cursor").write_bytes(content)
    assert "holds no cursor" in fail(server, 1, "watch", "--cursor-file", str(tmp_path / "cursor"))


def test_a_command_for_each_change(server: Server, tmp_path: Path) -> None:
    file, log = tmp_path / "cursor", tmp_path / "log"
    script = 'read -r value; echo "$KV_OP $KV_KEY $KV_CAUSE $value" >> "$1"; [ "$KV_KEY" != bad ]'
    words = ("watch", "--cursor-file", str(file), "--count", "2", "--exec", "sh", "-c", script, "sh", str(log))
    succeed(server, "watch", "--cursor-file", str(file), "--snapshot", "--until-synced")
    succeed(server, "put", "good", "1")
    succeed(server, "del", "good")
    done = run(server, *words)
    assert (done.returncode, done.stdout) == (0, b"")
    assert log.read_text() == "put good  1\ndelete good request \n"
    kept = file.read_text()
    succeed(server, "put", "bad", "1")
    assert "sh ended with status 1" in fail(server, 1, *words)
    assert file.read_text() == kept  # the change will come again
    assert "sh ended with status 1" in fail(server, 1, *words)
    assert log.read_text().count("put bad  1\n") == 2
    assert "cannot continue" in fail(server, 1, "watch", "--since", kept.strip(), "--exec", str(tmp_path / "none"))


def test_a_gap_is_said_and_it_goes_on(server: Server) -> None:
    succeed(server, "put", "k", "1")
    with running(server, "watch", "--since", "0000000000000000.1", "--json") as watch:
        assert json.loads(lines_of(watch, 1)[0]) == {"type": "gap", "reason": "epoch", "snapshot": False}
        assert json.loads(lines_of(watch, 1)[0])["op"]
    done = run(server, "watch", "--since", "0000000000000000.1", "--count", "1")
    assert "GAP epoch" in done.stderr.decode() and b"PUT" in done.stdout


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (("watch", "--until-synced"), 2, "goes with --snapshot"),
        (("watch", "--since", "x.1", "--cursor-file", "f"), 2, "not both"),
        (("watch", "--since", "nonsense"), 2, "cursor"),
        (("watch", "--ops", "got"), 2, "ops"),
        (("watch", "--exec"), 2, "needs a command"),
        (("watch", *(f"p{number}" for number in range(65))), 2, "at most 64"),
        (("watch", "--url", "localhost:1", "--patience", "0"), 6, "cannot be reached"),
        (("wait", "k", "--exists", "--absent"), 2, "give one of"),
        (("wait", "k", "--within", "soon"), 2, "is not a duration"),
        (("lock", "k"), 2, "no command to run"),
        (("lock", "k", "--"), 2, "needs a command"),
        (("lock", "k", "--ttl", "0", "--", "true"), 2, "above 0"),
        (("lock", "k", "--", "/nothing/here"), 127, "cannot be run"),
        (("lock", "k", "--", "/etc/passwd"), 126, "cannot be run"),
    ],
)
def test_what_cannot_be_is_refused(server: Server, words: tuple[str, ...], status: int, why: str) -> None:
    assert why in fail(server, status, *words)


def test_a_reader_that_leaves_ends_it_silently(server: Server) -> None:
    with running(server, "watch", "--json", "--snapshot") as watch:
        lines_of(watch, 2)
        assert watch.stdout is not None
        watch.stdout.close()
        watch.stdout = None
        run(server, "put", "k", "v")
        _, said = watch.communicate(timeout=20)
    assert (watch.returncode, said) == (141, "")


def test_waiting(server: Server) -> None:
    succeed(server, "put", "k", "v")
    assert succeed(server, "wait", "k") == b"v"
    assert succeed(server, "wait", "none", "--absent") == b""
    assert "did not come within 200 ms" in fail(server, 3, "wait", "none", "--within", "0.2s")
    assert "did not become 'x' within" in fail(server, 3, "wait", "k", "--equals", "x", "--within", "0.2s")
    revision = succeed(server, "get", "k", "--revision-only").decode().strip()
    with running(server, "wait", "k", "--changed-from", revision, "--json") as waiting:
        wait_for(lambda: server.status()["gateways"][0]["clients"], "the one that waits")
        succeed(server, "put", "k", "w")
        assert json.loads(lines_of(waiting, 1)[0])["value"] == "w"
        assert waiting.wait(20) == 0


def test_a_lock_is_held_while_a_command_runs(server: Server) -> None:
    script = "echo $KVSERVER_LOCK_FENCE"
    fences = [int(succeed_program(server, "lock", "l", "--", "sh", "-c", script)) for _ in range(2)]
    assert fences[0] < fences[1] and succeed(server, "ls") == b""
    with running(server, "lock", "l", "--", "sh", "-c", "echo held; read -r line < /dev/zero") as holder:
        assert lines_of(holder, 1) == ["held"]
        assert "another holds the lock l" in fail(server, 3, "lock", "l", "--within", "0.1s", "--", "true")
        holder.send_signal(signal.SIGTERM)
        assert holder.wait(20) == 128 + signal.SIGTERM
    assert run(server, "lock", "l", "--within", "5s", "--", "sh", "-c", "exit 9").returncode == 9


def test_a_lock_that_is_lost_ends_the_command(server: Server, tmp_path: Path) -> None:
    script = f"trap 'echo told > {tmp_path}/told; exit 1' TERM; echo held; while :; do sleep 0.05; done"
    with running(server, "lock", "l", "--ttl", "0.5s", "--", "sh", "-c", script) as holder:
        assert lines_of(holder, 1) == ["held"]
        succeed(server, "del", "l")
        assert holder.wait(20) == 4
        assert holder.stderr is not None and "the lock l is lost" in holder.stderr.read()
    assert (tmp_path / "told").read_text() == "told\n"


def succeed_program(server: Server, *words: str) -> bytes:
    done = subprocess.run([PROGRAM, *words], capture_output=True, env=environ(server), timeout=60)
    assert done.returncode == 0, done
    return done.stdout


def test_ctrl_c_is_for_the_command_that_holds_the_lock(server: Server) -> None:
    script = "trap 'echo bye; exit 7' INT; echo held; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [PROGRAM, "lock", "l", "--", "bash", "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env=environ(server),
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=20)[0] == "bye\n" and process.returncode == 7
