"""The benchmark's plots: what they say, of which results, and that they can be drawn again."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from tests.bench import __main__ as bench
from tests.bench import report
from tests.bench.measure import Findings
from tests.bench.plots import Results, draw

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "tests/bench/results").glob("*.json"))
PICTURES = ROOT / "kvserver/manual/pictures"
FACTS = {
    "machine": "2 x Some CPU, 24 GiB, Linux 6.1",
    "Python": "3.11.2, /usr/bin/python3.11, Debian's",
    "programs": "redis-server 7.0.15, webdis 0.1.9+dfsg-1.1, etcd 3.4.23, nats-server 2.15.1, wrk 4.1.0",
    "settings": "2 rounds, 1 s of wrk, 9 keys",
}


def made_up(**parts: Findings) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(report.as_json(FACTS, parts))
    return plain


def words(plot: bytes) -> list[str]:
    """Return all texts of a plot, in order."""
    root = ElementTree.fromstring(plot)
    return [text for each in root.iter("{http://www.w3.org/2000/svg}text") if (text := "".join(each.itertext()))]


@pytest.fixture
def get() -> Findings:
    findings = Findings()
    rounds = {"kvserver": [{"ops/s": 65_271.0}], "webdis+redis none": [{"ops/s": 9_484.4}]}
    findings.add("GET hit", rounds)
    return findings


def test_a_plot_says_who_is_compared_how_much_and_on_what(get: Findings) -> None:
    drawn = draw(Results([made_up(get=get)]))
    assert drawn.keys() == {"peers.light.svg", "peers.dark.svg"}
    said = words(drawn["peers.light.svg"])
    for text in ("kvserver", "1 (65,300/s)", "Webdis + Redis, no log", "0.15", "GET"):
        assert text in said
    told = " ".join(said)
    assert "2 x Some CPU, 24 GiB, shared with the load generator; medians of 2 rounds." in told
    assert "Python 3.11.2; redis-server 7.0.15, webdis 0.1.9, etcd 3.4.23. Values of 100 bytes." in told
    assert words(drawn["peers.dark.svg"]) == said and drawn["peers.dark.svg"] != drawn["peers.light.svg"]


def test_a_plot_is_the_same_each_time_and_runs_nothing(get: Findings) -> None:
    results = Results([made_up(get=get)])
    assert draw(results) == draw(results)
    for plot in draw(results).values():
        assert not re.search(rb"<script|<image|href=\"http|\b20\d\d-\d\d", plot)


def test_bars_are_of_the_ratios_of_neighbours(get: Findings) -> None:
    """Rates vary with what else the machine does: a contender's best rounds may be those in which it had it alone."""
    rounds = {"kvserver": [{"ops/s": 10.0}, {"ops/s": 30.0}, {"ops/s": 40.0}]}
    rounds["etcd"] = [{"ops/s": 20.0}, {"ops/s": 15.0}, {"ops/s": 80.0}]
    get.add("PUT, flushed", rounds)
    said = words(draw(Results([made_up(get=Findings(), put=get)]))["peers.light.svg"])
    assert "1 (30/s)" in said and "2" in said


def test_what_lacks_a_peer_is_not_plotted() -> None:
    alone = Findings()
    alone.add("GET hit", {"kvserver": [{"ops/s": 1.0}]})
    assert draw(Results([made_up(get=alone)])) == {}


def test_three_machines_are_plotted_beside_those_of_others() -> None:
    cluster = Findings()
    for case, rate in {"PUT, 1 client": 240.0, "PUT, 96 clients": 2_345.0}.items():
        peers = {"engines alone": [{"ops/s": 2 * rate}], "etcd of three": [{"ops/s": rate / 2}]}
        cluster.add(case, {"cluster": [{"ops/s": rate}], **peers})
    cluster.add("PUT, 384 clients", {"cluster": [{"ops/s": 1.0}]})
    drawn = draw(Results([made_up(cluster=cluster)]))
    assert drawn.keys() == {"cluster.light.svg", "cluster.dark.svg"}
    said = words(drawn["cluster.light.svg"])
    for text in ("kvserver, three machines", "240/s", "480/s", "PUT, 96 clients", "1,170/s", "etcd, three members"):
        assert text in said
    assert "PUT, 384 clients" not in said
    assert "nats-server 2.15.1, etcd 3.4.23." in " ".join(said)


def test_millions_are_words() -> None:
    feed = Findings()
    case = "100 readers, as fast as it goes"
    rounds = {"kvserver": [{"deliveries/s": 5.512e6}], "webdis+redis none, PUBLISH": [{"deliveries/s": 304_600.0}]}
    feed.add(case, rounds)
    assert {"1 (5.51 million/s)", "0.055"} <= set(words(draw(Results([made_up(feed=feed)]))["peers.light.svg"]))


def test_the_manual_shows_what_the_kept_results_say() -> None:
    drawn = draw(Results([json.loads(path.read_text()) for path in RESULTS]))
    assert {name.partition(".")[0] for name in drawn} >= {"peers", "connections", "everyday"}
    for name, plot in drawn.items():
        assert words((PICTURES / name).read_bytes()) == words(plot), f"{name}: draw it again"
    assert {path.name for path in PICTURES.glob("*.svg")} == drawn.keys()


def run(*arguments: object) -> tuple[int, str]:
    ended = CliRunner().invoke(bench.main, list(map(str, arguments)))
    return ended.exit_code, ended.output


def test_a_saved_report_is_plotted_without_measuring(tmp_path: Path, get: Findings) -> None:
    saved = tmp_path / "report.json"
    saved.write_text(report.as_json(FACTS, {"get": get}))
    status, said = run("--redraw", saved, "--plots", tmp_path / "plots")
    assert (status, {path.name for path in (tmp_path / "plots").iterdir()}) == (
        0,
        {"peers.light.svg", "peers.dark.svg"},
    )
    status, said = run("--redraw", saved)
    assert status == 2 and "--redraw wants --plots" in said
    saved.write_text(report.as_json(FACTS, {}))
    status, said = run("--redraw", saved, "--plots", tmp_path / "none")
    assert status == 1 and "plots are of get, put, feed, connections, everyday, cluster" in said


def test_without_matplotlib_it_says_what_to_install(
    tmp_path: Path, get: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "tests.bench.plots")
    monkeypatch.delattr("tests.bench.plots")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    saved = tmp_path / "report.json"
    saved.write_text(report.as_json(FACTS, {"get": get}))
    status, said = run("--redraw", saved, "--plots", tmp_path / "plots")
    assert status == 1 and "plots want matplotlib: pip install '.[plots]'" in said
