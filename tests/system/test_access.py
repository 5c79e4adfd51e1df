"""Tokens on the real server: made by the command, followed by every process without a restart, told to nobody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import httpx
import pytest

from kvserver.access.grants import VERBS, Verb
from kvserver.access.tokenedit import add_token, change_file, new_token
from tests.system.harness import Server, processes_of, wait_for

NewServer = Callable[..., Server]


def make(file: Path, name: str, *grants: tuple[str, list[Verb]]) -> str:
    """A new token in `file`."""
    token = new_token()
    change_file(file, lambda text: add_token(text, str(file), name, token, grants))
    return token


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def status_of(server: Server, token: str, path: str = "/v1/kv/a/k") -> int:
    return httpx.get(server.url + path, headers=bearer(token), trust_env=False, timeout=15).status_code


def everywhere(server: Server, token: str, status: int) -> bool:
    """Whether a dozen connections, so both workers, answer a request with `status`."""
    return all(status_of(server, token) == status for _ in range(12))


@pytest.fixture(scope="module")
def file(make_dir: Callable[[str], Path]) -> Path:
    return make_dir("etc") / "tokens.toml"


@pytest.fixture(scope="module")
def ann(file: Path) -> str:
    return make(file, "ann", ("a/", ["read", "write"]), ("", ["feed"]))


@pytest.fixture(scope="module")
def root(file: Path) -> str:
    return make(file, "root", ("", list(VERBS)))


@pytest.fixture(scope="module")
def server(make_dir: Callable[[str], Path], file: Path, ann: str, root: str) -> Iterator[Server]:
    data = make_dir("data")
    options = ("--shards", "1", "--workers", "2", "--sync", "os", "--log-level", "trace", "--tokens", str(file))
    with Server(data, *options) as running:
        httpx.put(running.url + "/v1/kv/a/k", headers=bearer(root), content="v", trust_env=False).raise_for_status()
        yield running


def hang_up(server: Server) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)


def test_the_banner_says_what_holds(server: Server, file: Path) -> None:
    assert f"tokens in {file}" in server.banner
    assert "no access control" not in server.banner


def test_who_is_let_in(server: Server, ann: str, root: str) -> None:
    assert httpx.get(server.url + "/v1/kv/a/k", trust_env=False).status_code == 401
    assert httpx.get(server.url + "/health/ready", trust_env=False).status_code == 200
    assert [status_of(server, ann, path) for path in ("/v1/kv/a/k", "/v1/kv/b", "/v1/status")] == [200, 403, 403]
    assert [status_of(server, root, path) for path in ("/v1/kv/a/k", "/v1/kv/b", "/v1/status")] == [200, 404, 200]


def test_a_new_token_and_a_revoked_one_take_effect_while_others_go_on(server: Server, file: Path, ann: str) -> None:
    statuses, over = [], Event()

    def go_on() -> None:
        while not over.wait(0.01):
            statuses.append(status_of(server, ann))

    others = Thread(target=go_on)
    others.start()
    try:
        bob = make(file, "bob", ("", ["read"]))
        wait_for(lambda: everywhere(server, bob, 200), "the new token's effect")
        with server.client() as client:
            assert client.get("/v1/kv/a/k", headers=bearer(bob)).status_code == 200
            revoke(server, file, "bob")
            assert client.get("/v1/kv/a/k", headers=bearer(bob)).status_code == 401, "when the command has ended"
        assert everywhere(server, bob, 401)
    finally:
        over.set()
        others.join()
    assert set(statuses) == {200}


def revoke(server: Server, file: Path, name: str) -> None:
    """By the command, which ends when it has taken effect, and says where."""
    where = ["--tokens", str(file), "--data-dir", str(server.data_dir), "--run-dir", str(server.run_dir)]
    argv = [sys.executable, "-m", "kvserver", "token", "revoke", name, *where]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert server.process is not None
    who = f"the server of {server.data_dir} (pid {server.process.pid}) has applied it"
    assert (done.stdout, done.stderr) == ("", f"kvserver: {file} no longer has the token {name}\nkvserver: {who}\n")


def test_the_file_may_be_replaced_and_links_to_it_be_turned(new_server: NewServer, tmp_path: Path) -> None:
    """As editors do, and as Kubernetes does with a ConfigMap: a link to a link to a directory that is swapped."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = (make(tmp_path / name / "tokens.toml", name, ("", ["read"])) for name in ("one", "two"))
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "tokens.toml").symlink_to("..data/tokens.toml")
    server = new_server("--shards", "1", "--workers", "1", "--tokens", str(tmp_path / "tokens.toml"))
    with server.start():
        assert everywhere(server, one, 404) and everywhere(server, two, 401)
        (tmp_path / "..new").symlink_to("two")
        (tmp_path / "..new").rename(tmp_path / "..data")
        wait_for(lambda: everywhere(server, two, 404) and everywhere(server, one, 401), "the other file's effect")
        three = make(tmp_path / "three.toml", "three", ("", ["read"]))
        (tmp_path / "three.toml").rename(tmp_path / "two" / "tokens.toml")
        wait_for(lambda: everywhere(server, three, 404) and everywhere(server, two, 401), "the new file's effect")
        status = (tmp_path / "two" / "tokens.toml").stat()
        (tmp_path / "two" / "tokens.toml").write_text((tmp_path / "one" / "tokens.toml").read_text())
        os.utime(tmp_path / "two" / "tokens.toml", ns=(status.st_atime_ns, status.st_mtime_ns))
        wait_for(lambda: everywhere(server, one, 404), "the effect of what was written in place")


def test_a_file_that_others_could_change_is_not_taken_over(server: Server, file: Path, ann: str) -> None:
    before = len(server.log())
    file.chmod(0o620)
    try:
        wait_for(lambda: f"chmod go-w {file}" in server.log()[before:], "a line in the log")
        assert everywhere(server, ann, 200)
    finally:
        file.chmod(0o600)
    wait_for(lambda: "INFO tokens are in effect" in server.log()[before:], "a line that it is well again")
    assert server.log()[before:].count("chmod go-w") == 1


def test_a_command_says_that_a_server_does_not_follow(server: Server, file: Path) -> None:
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        where = ["--tokens", str(file), "--data-dir", str(server.data_dir), "--run-dir", str(server.run_dir)]
        argv = [sys.executable, "-m", "kvserver", "token", "new", "carl", "--grant", "read", *where]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    assert done.returncode == 1 and done.stdout.startswith("kv_")
    assert f"(pid {server.process.pid}) has not applied it within 5 s" in done.stderr
    revoke(server, file, "carl")


def test_a_broken_file_leaves_the_old_tokens_in_force(server: Server, file: Path, ann: str) -> None:
    whole = file.read_text()
    before = len(server.log())
    try:
        file.write_text(whole.replace('"read"', '"raed"', 1))
        wait_for(lambda: "the tokens that are in effect stay" in server.log()[before:], "a line in the log")
        line = next(line for line in server.log()[before:].splitlines() if "tokens that are in effect" in line)
        assert str(file) in line and '"raed" cannot be allowed' in line
        assert everywhere(server, ann, 200)
        file.unlink()
        wait_for(lambda: "there is no token file" in server.log()[before:], "a line in the log")
        hang_up(server)
        said = "there is no token file"
        wait_for(lambda: server.log()[before:].count(said) == 2, "the same again, because somebody asked")
        assert everywhere(server, ann, 200)
    finally:
        file.write_text(whole)
        file.chmod(0o600)


def test_a_new_worker_knows_what_is_in_effect(server: Server, ann: str, root: str) -> None:
    def workers() -> set[int]:
        answer = httpx.get(server.url + "/v1/status", headers=bearer(root), trust_env=False, timeout=15)
        return {worker["pid"] for worker in json.loads(answer.content)["workers"]}

    killed = max(workers())
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: len(workers() - {killed}) == 2 and killed not in workers(), "another worker")
    assert everywhere(server, ann, 200) and everywhere(server, "kv_wrong", 401)


def test_no_token_and_no_ticket_is_told_to_anybody(server: Server, ann: str, root: str) -> None:
    """Not in the log at its most talkative, in no file of the run or of the data, in no list of processes."""
    secrets = [ann, root, "kv_never-seen-before", "kvt_never-seen-before"]
    for token in secrets[:3]:
        for path in ("/a%2Fk", "/v1/kv/a/k", "/v1/kv?prefix=zz/", "/v1/batch", "/wal", "/nowhere/at/all"):
            status_of(server, token, path)
    asked = httpx.post(server.url + "/v1/tickets", headers=bearer(ann), json={"for": "sse"}, trust_env=False)
    assert asked.status_code == 201
    secrets.append(asked.json()["ticket"])
    for ticket in secrets[-2:]:
        for headers in ({}, bearer(root)):
            httpx.get(f"{server.url}/wal?ticket={ticket}", headers=headers, trust_env=False)
            httpx.get(f"{server.url}/v1/kv/a/k?ticket={ticket}", headers=headers, trust_env=False)
    places = {"the log": server.log(), "the banner": server.banner, "the metrics": server.metrics()}
    for directory in (server.run_dir, server.data_dir):
        for path in directory.rglob("*"):
            if path.is_file():
                places[str(path)] = path.read_bytes().decode("latin-1") + path.name
    for pid in processes_of(server.run_dir):
        for name in ("cmdline", "environ"):
            places[f"{name} of {pid}"] = Path(f"/proc/{pid}/{name}").read_bytes().decode("latin-1")
    assert "trace" in str(server.options) and "/v1/kv/a/k" in places["the log"]
    for secret in secrets:
        assert not [place for place, text in places.items() if secret in text]
    assert len(list((server.run_dir / "tickets").rglob("*/*"))) == 1


# Starts


def refusal(server: Server) -> str:
    """Why it does not start."""
    process = server.spawn()
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    return server.log()


def test_a_server_does_not_start_with_a_file_it_cannot_use(new_server: NewServer, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    assert "there is no token file" in refusal(new_server("--tokens", str(bad)))
    bad.write_text('# mine\n\n[[token]]\nname = "ann"\nsha256 = "12"\ngrants = []\n')
    said = refusal(new_server("--tokens", str(bad)))
    assert f'{bad}, line 3: token 1 ("ann")' in said and "64 hexadecimal digits" in said and "Traceback" not in said
    assert not (tmp_path / "data").exists(), "nothing was begun"


def test_only_with_tokens_it_listens_where_others_can_reach_it(new_server: NewServer, tmp_path: Path) -> None:
    assert "--tokens" in refusal(new_server("--host", "0.0.0.0"))
    file = tmp_path / "tokens.toml"
    token = make(file, "ann", ("", ["read"]))
    server = new_server("--host", "0.0.0.0", "--shards", "1", "--workers", "1", "--tokens", str(file))
    with server.start():
        assert "unencrypted" in server.banner
        server.host = "127.0.0.1"
        assert [status_of(server, each) for each in ("kv_x", token)] == [401, 404]
    assert not (server.run_dir / "tokens").exists()
