"""Command line, environment and readiness of each child, on a real board."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvserver.serve.child_specs import GATEWAY, SHARDS, WEB, ChildSpecs, conf_file
from kvserver.serve.listening import METRICS_FD_VARIABLE, Listeners
from kvserver.settings import ServerSettings
from shards.host.board import ProcessRow
from shards.host.process import PARENT_VARIABLE
from tests.stores import Store, new_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = new_store(tmp_path, shards=2)
    yield made
    made.close()


@pytest.fixture(params=[None, 0], ids=["one port", "a port for the feed"])
def listeners(request: pytest.FixtureRequest, store: Store) -> Iterator[Listeners]:
    made = Listeners(settings_of(store, request.param))
    yield made
    made.close()


def settings_of(store: Store, feed_port: int | None = None) -> ServerSettings:
    return ServerSettings(
        data_dir=store.data_dir, run_dir=store.run_dir, port=0, metrics_port=0, feed_port=feed_port, shards=2
    )


@pytest.fixture
def specs(store: Store, listeners: Listeners) -> ChildSpecs:
    return ChildSpecs(settings_of(store), listeners, store.board, store.run_dir / "metrics")


def test_a_shard_is_up_when_its_row_names_its_pid_and_says_so(specs: ChildSpecs, store: Store) -> None:
    first, second = specs.shards()
    assert (first.name, second.name) == ("shard 0", "shard 1")
    assert list(second.argv) == [sys.executable, "-m", "shards", "--index", "1"]
    row = store.board.shards[1]
    row.pid, row.state = 4242, ProcessRow.STARTING
    assert not second.is_up(4242)
    row.state = ProcessRow.UP
    assert second.is_up(4242) and not second.is_up(4243) and not first.is_up(4242)


def test_the_exporter_gets_its_listener_and_goes_with_the_shards(
    specs: ChildSpecs, store: Store, listeners: Listeners
) -> None:
    child = specs.exporter()
    fd = listeners.metrics.fileno()
    assert (child.stage, list(child.pass_fds), child.environ[METRICS_FD_VARIABLE]) == (SHARDS, [fd], str(fd))
    store.board.exporter.pid = 4242
    assert child.is_up(4242) and not child.is_up(1)


def test_gunicorn_s_masters_get_their_listeners_and_wait_for_the_shards_alone(
    specs: ChildSpecs, listeners: Listeners
) -> None:
    for child, stage, listener, variable, app in (
        (specs.web(), WEB, listeners.rest, "KVSERVER_LISTEN_FD", "kvserver.app:app"),
        (specs.gateway(), GATEWAY, listeners.feed, "KVSERVER_FEED_FD", "kvserver.gateway:app"),
    ):
        assert (child.stage, child.after, child.argv[-1]) == (stage, GATEWAY, app)
        assert Path(child.argv[child.argv.index("-c") + 1]).is_file()
        fds = [] if listener is None else [listener.fileno()]
        assert list(child.pass_fds) == fds
        assert child.environ.get(variable) == (str(fds[0]) if fds else None)
        assert not child.is_up(1), "no worker has registered on the board"


def test_children_know_the_settings_and_whose_children_they_are(
    store: Store, listeners: Listeners, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/systemd")
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--workers 99")
    monkeypatch.setenv("HOME", "/home/x")
    environ = ChildSpecs(settings_of(store), listeners, store.board, Path("/m")).child_environ()
    assert not {"NOTIFY_SOCKET", "GUNICORN_CMD_ARGS"} & set(environ)
    assert environ["HOME"] == "/home/x"
    assert environ[PARENT_VARIABLE] == str(os.getpid())
    assert environ["PROMETHEUS_MULTIPROC_DIR"] == "/m"
    assert (environ["KVSERVER_RUN_DIR"], environ["KVSERVER_SHARDS"]) == (str(store.run_dir), "2")


@pytest.mark.parametrize("name", ["gunicorn.conf.py", "gateway.conf.py"])
def test_the_configurations_of_gunicorn_are_found(name: str) -> None:
    assert conf_file(name).is_file()
