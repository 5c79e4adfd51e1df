"""`kvserver token`: what it prints, what it makes of the file, and what it refuses."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kvserver import cli
from kvserver.access import tokenedit
from kvserver.access.tokenedit import add_token, change_file
from kvserver.access.tokenfile import MOST, TokenFileError, read_file
from kvserver.access.tokens import hash_token
from shards.files import locks


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


def run(file: Path, *words: str, environ: bool = False) -> Result:
    where = [] if environ else ["--tokens", str(file)]
    env = {"KVSERVER_DATA_DIR": str(file.parent / "nowhere"), "KVSERVER_TOKENS": str(file) if environ else ""}
    return CliRunner().invoke(cli.main, ["token", *words, *where], env=env)


@pytest.mark.parametrize("environ", [False, True])
def test_a_token_is_printed_once_and_stored_as_its_hash(file: Path, environ: bool) -> None:
    made = run(file, "new", "deploy", "--grant", "read,write:flags/", "--grant", "feed", environ=environ)
    assert made.exit_code == 0
    assert re.fullmatch(r"kv_[A-Za-z0-9_-]{43}\n", made.stdout)
    assert made.stderr.splitlines()[0] == f"kvserver: {file} has the token deploy now"
    assert "no running server that is known here" in made.stderr
    token = made.stdout.strip()
    assert token not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    (stored,) = read_file(file)
    assert stored.sha256 == hash_token(token.encode())
    assert (stored.grants.read, stored.grants.write, stored.grants.feed) == ((b"flags/",), (b"flags/",), (b"",))
    listed = run(file, "list", environ=environ)
    assert listed.stdout == 'deploy  read:"flags/" write:"flags/" feed\n'
    assert run(file, "revoke", "deploy", environ=environ).exit_code == 0
    assert read_file(file) == []
    assert run(file, "list").stdout == ""


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["new", "a"], 2, "--grant"),
        (["new", "a", "--grant", "raed"], 2, "read, write, feed, admin"),
        (["new", "a", "--grant", ""], 2, "read, write, feed, admin"),
        (["new", "a", "--grant", "read,:x"], 2, "read, write, feed, admin"),
        (["new", "a", "--grant", "admin:x/"], 2, "whole server"),
        (["new", "a", "--grant", "read:"], 2, "the prefix is empty"),
        (["new", "a", "--grant", "read:\udcff"], 2, "not UTF-8"),
        (["new", "a", "--grant", "read:" + "x" * 512], 2, "512 bytes"),
        (["new", "a b", "--grant", "read"], 2, "letters, digits"),
        (["new", "-a", "--grant", "read"], 2, ""),
        (["new", "\udcff", "--grant", "read"], 2, "letters, digits"),
        (["new", "", "--grant", "read"], 2, "letters, digits"),
        (["new", "there", "--grant", "read"], 1, "has a token there already"),
        (["revoke", "nobody"], 1, "no token of the name nobody; it has there"),
        (["revoke"], 2, "NAME"),
    ],
)
def test_what_is_refused(file: Path, words: list[str], status: int, message: str) -> None:
    assert run(file, "new", "there", "--grant", "read").exit_code == 0
    before = file.read_bytes()
    refused = run(file, *words)
    assert (refused.exit_code, refused.stdout) == (status, "")
    assert message in " ".join(refused.stderr.split())
    assert file.read_bytes() == before


def test_without_a_file(file: Path, tmp_path: Path) -> None:
    for words in (["new", "a", "--grant", "read"], ["list"], ["revoke", "a"]):
        result = CliRunner().invoke(cli.main, ["token", *words], env={"KVSERVER_TOKENS": ""})
        assert result.exit_code == 2 and "KVSERVER_TOKENS" in result.stderr
    for words in (["list"], ["revoke", "a"]):
        result = run(file, *words)
        assert result.exit_code == 1 and "there is no token file" in result.stderr
    result = run(tmp_path / "missing" / "tokens.toml", "new", "a", "--grant", "read")
    assert result.exit_code == 1 and "cannot be written" in result.stderr and "kv_" not in result.stdout
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_broken_or_open_to_all_is_not_touched(file: Path) -> None:
    file.write_text("[[token]\n")
    broken = run(file, "new", "a", "--grant", "read")
    assert broken.exit_code == 1 and "line 1" in broken.stderr and broken.stdout == ""
    file.write_bytes(b"# \xff\n")
    assert "not UTF-8" in run(file, "new", "a", "--grant", "read").stderr
    file.write_text("")
    file.chmod(0o666)
    for words in (["new", "a", "--grant", "read"], ["list"]):
        result = run(file, *words)
        assert result.exit_code == 1 and f"chmod go-w {file}" in result.stderr
    assert file.read_text() == ""


def test_a_link_stays_a_link(file: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    file.symlink_to(tmp_path / "real" / "tokens.toml")
    assert run(file, "new", "a", "--grant", "read").exit_code == 0
    assert file.is_symlink() and len(read_file(tmp_path / "real" / "tokens.toml")) == 1
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["tokens.toml"]


def test_group_and_mode_stay(file: Path) -> None:
    """Of a file that belongs to root, and that the server's user reads by its group."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    file.write_text("")
    os.chown(file, 0, 12346)
    file.chmod(0o640)
    assert run(file, "new", "a", "--grant", "read").exit_code == 0
    assert (file.stat().st_uid, file.stat().st_gid, file.stat().st_mode & 0o777) == (0, 12346, 0o640)


def test_a_link_that_another_could_have_planted_is_not_followed(file: Path, tmp_path: Path) -> None:
    """Neither to read nor to write, whatever stands behind it; and nothing is made beside it."""
    shared, mine = tmp_path / "shared", tmp_path / "mine"
    shared.mkdir()
    mine.mkdir()
    shared.chmod(0o777)
    assert run(mine / "tokens.toml", "new", "a", "--grant", "read").exit_code == 0
    before = (mine / "tokens.toml").read_bytes()
    (shared / "tokens.toml").symlink_to(mine / "tokens.toml")
    (shared / "new.toml").symlink_to(mine / "new.toml")
    for name in ("tokens.toml", "new.toml"):
        for words in (["new", "b", "--grant", "read"], ["list"]):
            refused = run(shared / name, *words)
            assert (refused.exit_code, refused.stdout) == (1, "") and f"chmod go-w {shared}" in refused.stderr
    assert run(shared / "tokens.toml", "revoke", "a").exit_code == 1
    assert (mine / "tokens.toml").read_bytes() == before
    assert sorted(path.name for path in [*mine.iterdir(), *shared.iterdir()]) == [
        "new.toml",
        "tokens.toml",
        "tokens.toml",
    ]


def test_changes_at_the_same_time_are_all_made(file: Path) -> None:
    def make(number: int) -> None:
        change_file(file, lambda text: add_token(text, str(file), f"t{number}", f"kv_{number}", [("", ["read"])]))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(24)))
    assert {token.grants.name for token in read_file(file)} == {f"t{number}" for number in range(24)}


def test_a_file_with_a_byte_order_mark_keeps_it(file: Path) -> None:
    file.write_text("\ufeff# ours\n")
    file.chmod(0o600)
    assert run(file, "new", "deploy", "--grant", "read").exit_code == 0
    assert run(file, "list").stdout == "deploy  read\n"
    assert run(file, "revoke", "deploy").exit_code == 0
    assert file.read_text().startswith("\ufeff# ours\n") and read_file(file) == []


def test_what_is_open_is_listed_and_not_changed(file: Path) -> None:
    """A pipe of the shell, or standard input: it can be read once, and there is nothing to replace."""
    assert run(file, "new", "a", "--grant", "read").exit_code == 0
    environ = {name: value for name, value in os.environ.items() if not name.startswith("KVSERVER_")}

    def shell(words: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-c", f'"$0" -m kvserver {words}', sys.executable, str(file)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ, check=False)

    for words in ('token list --tokens <(cat "$1")', 'token list --tokens /dev/stdin < "$1"'):
        done = shell(words)
        assert (done.returncode, done.stdout, done.stderr) == (0, "a  read\n", "")
    before = file.read_bytes()
    for words in (
        "token new b --grant read --tokens /dev/stdout",
        'token revoke a --tokens /dev/stdin < "$1"',
        'serve --in-memory --port 0 --metrics-port 0 --tokens <(cat "$1")',
    ):
        done = shell(words)
        assert (done.returncode, done.stdout) == (1, "")
        assert "is an open stream, not a file" in done.stderr and "name the token file itself" in done.stderr
    assert file.read_bytes() == before


def test_a_stranger_who_can_read_the_directory_holds_nobody_up(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may open it may lock it."""
    monkeypatch.setattr(tokenedit, "PATIENCE_S", 0.2)
    fd = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert run(file, "new", "deploy", "--grant", "read").exit_code == 0
        assert run(file, "revoke", "deploy").exit_code == 0
    finally:
        os.close(fd)
    assert [path.name for path in file.parent.iterdir()] == [file.name], "no lock is left"


def test_a_command_that_stands_still_is_not_waited_for_for_ever(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenedit, "PATIENCE_S", 0.2)
    lock = locks.open_lock(file.with_name(f".{file.name}.lock"))
    assert os.fstat(lock).st_mode & 0o777 == 0o600
    try:
        assert locks.try_acquire_for_life(lock)
        refused = run(file, "new", "deploy", "--grant", "read")
    finally:
        os.close(lock)
    assert refused.exit_code == 1
    assert "another command has been changing" in refused.stderr
    assert run(file, "new", "deploy", "--grant", "read").exit_code == 0


NO_TOML = {
    "deep lists": ("token = " + "[" * 100_000, "nested too deeply"),
    "deep tables": ("token = " + "{b=" * 3000, "nested too deeply"),
    "a number of 5,000 digits": ("token = " + "1" * 5000, "not TOML that can be read"),
}


@pytest.mark.parametrize("kind", NO_TOML)
@pytest.mark.parametrize("words", [["list"], ["new", "a", "--grant", "read"], ["revoke", "a"]])
def test_what_the_parser_chokes_on_is_said_in_a_line(file: Path, words: list[str], kind: str) -> None:
    text, message = NO_TOML[kind]
    file.write_text(text)
    file.chmod(0o600)
    refused = run(file, *words)
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (1, 1)
    assert message in refused.stderr
    assert file.read_text() == text


@pytest.mark.parametrize("words", [["list"], ["new", "a", "--grant", "read"], ["revoke", "a"]])
def test_a_file_that_is_too_large_is_not_read(file: Path, words: list[str]) -> None:
    file.touch(mode=0o600)
    os.truncate(file, 3 << 30)  # sparse
    refused = run(file, *words)
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (1, 1)
    assert re.search(r"more than 16 MiB|at most 16777216", refused.stderr)


def test_a_file_of_tokens_has_at_most_16_mib(file: Path) -> None:
    file.write_text("#".ljust(MOST - 1, "x") + "\n")
    file.chmod(0o600)
    assert read_file(file) == []
    refused = run(file, "new", "a", "--grant", "read")
    assert refused.exit_code == 1
    assert "would have more than 16 MiB" in refused.stderr
    with file.open("a") as more:
        more.write("#")
    with pytest.raises(TokenFileError, match="more than 16 MiB"):
        read_file(file)


@pytest.mark.parametrize("words", [["list"], ["new", "a", "--grant", "read"], ["revoke", "a"]])
def test_the_sign_for_standard_input_is_no_file_of_tokens(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = run(Path("-"), *words)
    assert refused.exit_code == 2
    assert "./-" in refused.stderr
    assert not list(tmp_path.iterdir())
