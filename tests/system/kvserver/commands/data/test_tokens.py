"""Commands against a server with tokens: what is not allowed, and what is done but not told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.harness import Server
from tests.system.kvserver.commands.programs import fail, run, succeed


@pytest.fixture(scope="module")
def tokens(make_dir: Callable[[str], Path]) -> dict[str, str]:
    """The path of the token file, and tokens by name."""
    path = make_dir("tokens") / "tokens.toml"
    made = {"path": str(path)}
    for name, grant in (("reader", "read"), ("writer", "write"), ("flags", "read,write,feed:flags/")):
        done = run(None, "token", "new", name, "--grant", grant, "--tokens", str(path))
        assert done.returncode == 0, done
        made[name] = done.stdout.decode().strip()
    return made


@pytest.fixture(scope="module")
def guarded(make_dir: Callable[[str], Path], tokens: dict[str, str]) -> Iterator[Server]:
    with Server(make_dir("data"), "--shards", "1", "--workers", "1", "--tokens", tokens["path"]) as running:
        yield running


def test_what_is_not_allowed(guarded: Server, tokens: dict[str, str], tmp_path: Path) -> None:
    assert "needs a token" in fail(guarded, 5, "get", "k")
    assert "token is not known" in fail(guarded, 5, "get", "k", KVSERVER_TOKEN="kv_nothing")
    assert "not allowed" in fail(guarded, 5, "put", "k", "v", KVSERVER_TOKEN=tokens["reader"])
    assert "not allowed" in fail(guarded, 5, "watch", "users/", KVSERVER_TOKEN=tokens["flags"])
    assert "not allowed" in fail(guarded, 5, "status", KVSERVER_TOKEN=tokens["flags"])
    assert json.loads(fail(guarded, 5, "ls", "users/", "--json", KVSERVER_TOKEN=tokens["writer"]))["status"] == 403
    (tmp_path / "token").write_text(tokens["flags"])
    file = ("--token-file", str(tmp_path / "token"))
    succeed(guarded, "put", "flags/a", "1", *file)
    assert succeed(guarded, "get", "flags/a", *file) == b"1"
    assert b"flags/a" in succeed(guarded, "watch", "flags/", "--snapshot", "--until-synced", *file)
    assert "not allowed" in fail(guarded, 5, "del", "--all", "--yes", *file)
    bench = ("bench", "--seconds", "0.1", "--keys", "1", "--json")
    succeed(guarded, *bench, "--prefix", "flags/", *file)
    done = run(guarded, *bench, KVSERVER_TOKEN=tokens["writer"])
    assert done.returncode == 1 and set(json.loads(done.stdout.splitlines()[1])["statuses"]) == {"403"}


def test_what_is_done_but_not_told(guarded: Server, tokens: dict[str, str]) -> None:
    done = run(guarded, "incr", "secret", KVSERVER_TOKEN=tokens["writer"])
    assert (done.returncode, done.stdout) == (0, b"") and b"Done, but the result is withheld" in done.stderr
    assert succeed(guarded, "get", "secret", KVSERVER_TOKEN=tokens["reader"]) == b"1"
