"""What gunicorn's configurations share: a running store is found, and an open one is refused."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvserver.serve import deployment
from kvserver.settings import ServerSettings
from tests.stores import Store, new_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = new_store(tmp_path, shards=1)
    yield made
    made.close()


def settings_of(store: Store, host: str = "127.0.0.1", insecure: bool = False) -> ServerSettings:
    return ServerSettings(data_dir=store.data_dir, run_dir=store.run_dir, host=host, insecure=insecure)


def test_a_socket_of_the_supervisor_is_taken_by_its_descriptor(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVSERVER_LISTEN_FD", "7")
    assert deployment.bind_address(settings_of(store, "0.0.0.0"), "KVSERVER_LISTEN_FD", 8080) == "fd://7"


@pytest.mark.parametrize(("host", "bound"), [("127.0.0.1", "127.0.0.1:81"), ("::1", "[::1]:81")])
def test_without_one_host_and_port_are_bound(store: Store, host: str, bound: str) -> None:
    assert deployment.bind_address(settings_of(store, host), "KVSERVER_NO_FD", 81) == bound


def test_a_store_without_tokens_is_not_opened_to_others(store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        deployment.bind_address(settings_of(store, "0.0.0.0"), "KVSERVER_NO_FD", 81)
    assert ended.value.code == 1
    assert deployment.bind_address(settings_of(store, "0.0.0.0", insecure=True), "KVSERVER_NO_FD", 81) == "0.0.0.0:81"


def test_workers_of_a_run_that_is_over_end_their_master(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
    deployment.exit_if_run_is_over(settings_of(store))
    assert not killed
    (store.run_dir / "board").unlink()
    with pytest.raises(SystemExit) as ended:
        deployment.exit_if_run_is_over(settings_of(store))
    assert (ended.value.code, killed) == (0, [(os.getppid(), signal.SIGTERM)])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("trace", "debug"), ("debug", "info"), ("info", "warning"), ("warning", "warning"), ("error", "error")],
)
def test_gunicorn_says_less_than_we_do(ours: str, theirs: str) -> None:
    assert deployment.gunicorn_log_level(ours) == theirs
