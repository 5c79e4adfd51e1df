"""What lies in `deploy/` agrees with the code, with itself, and with the programs that read it."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kvserver.commands.cluster.secret import make_secret
from kvserver.commands.local.serve import SECTIONS
from kvserver.serve.cluster.files import setup_of
from kvserver.settings import ServerSettings
from shards.host.settings import env_name, load_settings, setting_specs

DEPLOY = Path(__file__).parents[2] / "deploy"
SYSTEMD = DEPLOY / "systemd"
COMMON = SYSTEMD / "kvserver-.service.d" / "common.conf"


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def env_file() -> tuple[dict[str, str], dict[str, str]]:
    """Variables of kvserver.env: those that are commented out, and those that are not."""
    lines = (DEPLOY / "kvserver.env").read_text().splitlines()
    found = [re.fullmatch(r"(#?)(KVSERVER_[A-Z_]+)=(.*)", line) for line in lines]
    assert all(m or line == "" or line == "#" or line.startswith("# ") for m, line in zip(found, lines, strict=True))
    assert all(m is None or lines[at - 1].startswith("#") for at, m in enumerate(found)), "not explained"
    defaults = [m for m in found if m and m[1]]
    assert len({m[2] for m in defaults}) == len(defaults)
    return {m[2]: m[3] for m in defaults}, {m[2]: m[3] for m in found if m and not m[1]}


def test_the_sample_settings_are_all_of_them_with_their_defaults() -> None:
    shown, _ = env_file()
    assert list(shown) == [env_name(name) for names in SECTIONS.values() for name in names]
    assert load_settings(ServerSettings, {}, shown) == ServerSettings()
    of_the_machine = {"KVSERVER_SHARDS", "KVSERVER_WORKERS"}
    for field in dataclasses.fields(ServerSettings):
        name = env_name(field.name)
        assert (shown[name] == "") == (field.default is None or name in of_the_machine), name


def test_the_sample_settings_say_where_the_units_are() -> None:
    _, given = env_file()
    common, target = COMMON.read_text(), (SYSTEMD / "kvserver.target").read_text()
    assert given == {
        "KVSERVER_DATA_DIR": "/var/lib/" + re.findall("^StateDirectory=(.+)", common, re.MULTILINE)[0],
        "KVSERVER_RUN_DIR": "/run/" + re.findall("^RuntimeDirectory=(.+)", common, re.MULTILINE)[0],
        "KVSERVER_SHARDS": str(len(re.findall(r"kvserver-shard@\d+\.service", target))),
    }


def test_every_setting_that_is_named_there_is_one() -> None:
    known = {env_name(name) for name in setting_specs(ServerSettings)}
    passed_on = {"KVSERVER_LISTEN_FD", "KVSERVER_FEED_FD"}
    for path in [path for path in DEPLOY.rglob("*") if path.is_file()]:
        text = path.read_text() if "__pycache__" not in path.parts else ""
        assert set(re.findall("KVSERVER_[A-Z_]*[A-Z]", text)) <= known | passed_on, path


def test_systemd_finds_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    needs("systemd-analyze")
    shutil.copytree(SYSTEMD, tmp_path, dirs_exist_ok=True)
    for unit in tmp_path.glob("*.service"):
        unit.write_text(unit.read_text().replace("/opt/kvserver/bin/", f"{Path(sys.executable).parent}/"))
    names = [path.name.replace("@", "@0") for path in tmp_path.iterdir() if path.is_file()]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in names)],
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
    )
    assert len(names) == 7
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_prometheus_takes_its_configuration_and_knows_the_figures() -> None:
    needs("promtool")
    done = subprocess.run(["promtool", "check", "config", DEPLOY / "prometheus.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    source = (DEPLOY.parent / "kvserver" / "serve" / "metrics" / "collectors.py").read_text()
    texts = [(DEPLOY / name).read_text() for name in ("kvserver.rules.yml", "grafana.json")]
    named = set(re.findall("(?<!:)kvserver_[a-z_]+", "".join(texts)))
    assert named and all(f'"{name.removesuffix("_total")}"' in source for name in named)


def test_each_alert_fires_when_it_should_and_not_before() -> None:
    needs("promtool")
    rules = Path(__file__).with_name("kvserver.rules.test.yml")
    done = subprocess.run(["promtool", "test", "rules", rules], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    alerts = set(re.findall(r"alert: (\w+)", (DEPLOY / "kvserver.rules.yml").read_text()))
    assert alerts == set(re.findall(r"alertname: (\w+)", rules.read_text()))


def test_the_container_is_built_of_what_there_is() -> None:
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["kvserver"]
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
    kept = re.findall("^!(.+)", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert all(list(DEPLOY.parent.glob(pattern)) for pattern in kept)
    # What pip builds the wheel of has to be among that.
    project = (DEPLOY.parent / "pyproject.toml").read_text()
    assert set(re.findall(r'"(deploy/[a-z.]+)" = ', project)) <= {
        str(path.relative_to(DEPLOY.parent)) for path in DEPLOY.parent.glob("deploy/*.conf.py")
    }


def test_the_containers_of_a_cluster_find_each_other(tmp_path: Path) -> None:
    document = yaml.safe_load((DEPLOY / "compose.cluster.yaml").read_text())
    services = document["services"]
    assert set(document["volumes"]) == {
        volume.partition(":")[0] for each in services.values() for volume in each["volumes"]
    }
    (name,) = document["secrets"]
    secret = tmp_path / "secret"
    make_secret(secret)
    for node, service in services.items():
        environ = service["environment"]
        assert service["hostname"] == environ["KVSERVER_NODE"] == node
        assert environ["KVSERVER_CLUSTER_SECRET"] == f"/run/secrets/{name}" and name in service["secrets"]
        settings = load_settings(ServerSettings, {}, environ | {"KVSERVER_CLUSTER_SECRET": str(secret)})
        setup = setup_of(settings)
        assert setup is not None and setup.own is not None and setup.own.host == node
        assert (
            {machine.host for machine in setup.machines}
            == set(services)
            == set((settings.allowed_hosts or "").split(","))
        )
        assert service["ports"][0].endswith(f":{settings.port}")
    extra = services["a"]["build"]["args"]["EXTRA"].split()
    project = (DEPLOY.parent / "pyproject.toml").read_text()
    brought = re.findall(r"^cluster = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)[0]
    assert extra == re.findall(r'^ *"([a-z-]+)', brought, re.MULTILINE)
