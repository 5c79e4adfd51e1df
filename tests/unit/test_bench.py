"""The benchmark's arithmetic: what is made of what was measured."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench import client, fanout, machine, programs, publishers, report, wrk
from tests.bench.__main__ import PARTS
from tests.bench.contenders import Etcd, KVServer
from tests.bench.measure import Figure, Findings, Target, alternate, latencies, quantile
from tests.bench.parts import Bench
from tests.bench.parts.everyday import READS, WRITES, Row
from tests.bench.parts.silence import longest_silence

SUMMARY = """\
Running 1s test @ http://127.0.0.1:8080
  1 threads and 64 connections
Requests/sec:  9245.12
summary: requests=9300 us=1005943 p50=6330 p99=17200 max=20100 status=3 broken=0
"""


def test_what_wrk_says_is_read() -> None:
    summary = wrk.parse(SUMMARY)
    assert summary == (9300, 1_005_943, 6330, 17_200, 20_100, 3, 0, 0.0)
    metrics = summary._replace(cpu_us=1_860_000.0).metrics(each=10)
    assert metrics["ops/s"] == pytest.approx(93_000 / 1.005943)
    assert metrics["us/op"] == pytest.approx(20.0)
    assert (metrics["p50 ms"], metrics["p99 ms"]) == (6.33, 17.2)


def test_a_wrk_that_says_nothing_is_told_about() -> None:
    with pytest.raises(wrk.Failed, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:8080 Connection refused\n")


def test_what_the_readers_found_is_read_and_nothing_may_be_missing() -> None:
    line = "written=5000 received=498000 seconds=1.000500 missing={} p50=9800 p99=20300 max=40623\n"
    found = fanout.parse(line.format(0))
    assert found == pytest.approx({"deliveries/s": 498_000 / 1.0005, "p50 ms": 9.8, "p99 ms": 20.3, "max ms": 40.623})
    for missing in (3, -1):
        with pytest.raises(programs.Failed, match=f"{missing} deliveries too few"):
            fanout.parse(line.format(missing))
    with pytest.raises(programs.Failed, match="not understood"):
        fanout.parse("")


def test_what_the_publishers_found_is_read() -> None:
    line = "taken={} refused=3 seconds=2.000000 p50=940 p99=5050 max=9999\n"
    assert publishers.parse(line.format(1632)) == (1632, 3, 2.0, 0.94, 5.05)
    with pytest.raises(programs.Failed, match="none of 3 messages"):
        publishers.parse(line.format(0))
    with pytest.raises(programs.Failed, match="not understood"):
        publishers.parse("")


def test_the_longest_silence_is_between_answers_and_may_begin_or_end_without_one() -> None:
    answers = [0.5, 1.1, 1.2, 1.9, 2.05, 3.5]
    assert longest_silence(answers, 1.0, 2.1) == pytest.approx(0.7)
    assert longest_silence(answers, 2.0, 3.0) == pytest.approx(0.95)
    assert longest_silence([], 4.0, 5.5) == longest_silence([3.9, 5.6], 4.0, 5.5) == pytest.approx(1.5)


@pytest.mark.parametrize("count", [1, 3])
def test_members_of_etcd_know_each_other_and_have_places_of_their_own(tmp_path: Path, count: int) -> None:
    ports = list(range(1000, 1000 + count))
    commands = Etcd(tmp_path).members(ports)
    options = [dict(zip(command[1::2], command[2::2], strict=True)) for command in commands]
    initial = {each["--initial-cluster"] for each in options}
    assert initial == {",".join(f"{each['--name']}={each['--initial-advertise-peer-urls']}" for each in options)}
    assert [each["--advertise-client-urls"] for each in options] == [f"http://127.0.0.1:{port}" for port in ports]
    assert len({each["--data-dir"] for each in options}) == count


def test_processor_time_is_that_of_children_that_have_ended_too() -> None:
    before = machine.cpu_s(os.getpid())
    subprocess.run([sys.executable, "-c", "sum(range(10_000_000))"], check=True)
    after = sum(os.times()[:4])
    assert before < machine.cpu_s(os.getpid()) == pytest.approx(after, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("'--enable-optimizations' '--with-lto'", "built with profile-guided and with link-time optimization"),
        ("'--enable-shared' '--with-lto=full'", "built without profile-guided and with link-time optimization"),
        ("'--prefix=/usr' '--with-lto=no'", "built without profile-guided and without link-time optimization"),
        ("", "built without profile-guided and without link-time optimization"),
    ],
)
def test_how_the_interpreter_was_configured_is_told(arguments: str, said: str) -> None:
    assert machine.describe_build(arguments) == said


def test_requests_stand_behind_their_lengths() -> None:
    body = b"two\nlines\r\n"
    put = client.request("PUT", "/key", body, Content_Type="text/plain")
    head = b"PUT /key HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 11\r\n\r\n"
    assert put == head + body
    get = client.request("GET", "/key")
    assert wrk.request_file([put, get]) == b"%d\n%b%d\n%b" % (len(put), put, len(get), get)


def test_an_answer_in_chunks_is_read_to_its_end() -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"
    with socket.create_server(("127.0.0.1", 0)) as listener, client.Connection(listener.getsockname()[1]) as asking:
        server, _ = listener.accept()
        with server:
            server.sendall(chunked)
            assert asking.ask(b"first") == b"3\r\nabc\r\n0\r\n\r\n"
            server.sendall(whole)
            assert asking.ask(b"second") == b"abc"


def test_a_token_is_one_more_field_of_a_request() -> None:
    put = client.request("PUT", "/key", b"two\r\nlines")
    with_token = client.authorize(put, "Bearer abc")
    assert with_token == put.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nAuthorization: Bearer abc\r\n")
    assert client.authorize(put, "") == put


@pytest.mark.parametrize("row", [*READS, *WRITES], ids=lambda row: row.name)
def test_everyday_requests_are_whole_and_the_same_ones_are_asked_of_redis(row: Row) -> None:
    ours = row.ours("k00099999")
    assert re.match(rb"(GET|HEAD|PUT|POST|PATCH|DELETE) /v1/(kv|batch)[/? ]", ours)
    assert (row.theirs is None) == (row.command == "")
    assert row.theirs is not None
    theirs = row.theirs("k00099999")
    assert re.match(rb"(GET|PUT) /%b/" % row.command.split()[0].rstrip(",").encode(), theirs)
    for asked in (ours, theirs):
        head, _, body = asked.partition(b"\r\n\r\n")
        declared = re.search(rb"\r\nContent-Length: (\d+)", head)
        assert len(body) == (int(declared[1]) if declared else 0)


def test_everyday_cases_have_names_of_their_own() -> None:
    assert len({row.name for row in [*READS, *WRITES]}) == len([*READS, *WRITES])


def test_another_checkout_is_run_by_its_own_environment_in_its_own_place(tmp_path: Path) -> None:
    bench = Bench(1, 1.0, 1, tmp_path, print, before=tmp_path / "old")
    ours, before = bench.ours("--in-memory", tokens=True)
    try:
        assert (ours.name, before.name) == ("kvserver --in-memory with tokens", "before --in-memory with tokens")
        assert (ours.server.command()[0], ours.server.tree) == (sys.executable, None)
        assert before.server.command()[0] == str(tmp_path / "old/.venv/bin/python")
        assert before.server.tree == tmp_path / "old"
        assert "--tokens" in before.server.command()
        assert ours.authorization.startswith("Bearer ")
    finally:
        ours.server.close()
        before.server.close()


def test_without_another_checkout_there_is_this_server_alone(tmp_path: Path) -> None:
    [ours] = Bench(1, 1.0, 1, tmp_path, print).ours()
    try:
        assert (ours.name, ours.authorization) == ("kvserver", "")
        assert isinstance(ours, KVServer)
    finally:
        ours.server.close()


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_quantile_is_a_value_that_so_many_do_not_exceed(values: list[float], share: float) -> None:
    found = quantile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert found == min(values) or sum(value < found for value in values) < share * len(values)


def test_latencies_are_told_in_milliseconds() -> None:
    assert latencies([n / 1000 for n in range(1, 101)]) == {"p50 ms": 50.0, "p99 ms": 99.0, "max ms": 100.0}
    with pytest.raises(ValueError, match="nothing was measured"):
        latencies([])


def test_contenders_take_turns_and_so_does_who_is_first() -> None:
    turns: list[str] = []

    def run(name: str) -> dict[str, float]:
        turns.append(name)
        return {"turn": float(len(turns))}

    results = alternate(3, {name: lambda name=name: run(name) for name in "abc"})  # type: ignore[misc]
    assert "".join(turns) == "abcbcacab"
    assert results["a"] == [{"turn": 1.0}, {"turn": 6.0}, {"turn": 8.0}]


def test_a_ratio_is_that_of_neighbors() -> None:
    findings = Findings()
    ours = [{"ops/s": 100.0, "only": 1.0}, {"ops/s": 10.0, "only": 1.0}, {"ops/s": 300.0, "only": 1.0}]
    theirs = [{"ops/s": 50.0}, {"ops/s": 5.0}, {"ops/s": 50.0}]
    findings.add("case", {"ours": ours, "theirs": theirs}, {("theirs", "ops/s"): Target("at least", 2, "ratio")})
    assert [(f.contender, f.metric, f.ratio) for f in findings.figures] == [
        ("ours", "ops/s", None),
        ("ours", "only", None),
        ("theirs", "ops/s", 2.0),
    ]
    assert findings.figures[-1].target is not None
    assert findings.figures[-1].target.is_met(findings.figures[-1])


def test_targets_hold_up_to_their_limit() -> None:
    figure = Figure("case", "ours", "ms", [2.0])
    assert Target("at most", 2).is_met(figure) is True
    assert Target("below", 2).is_met(figure) is False
    assert Target("at least", 2).is_met(figure) is True
    assert Target("at least", 2, "ratio").is_met(figure) is None


def test_the_report_has_a_row_for_each_contender_and_all_of_it_in_json() -> None:
    findings = Findings(notes=["etcd is missing"])
    rounds = {"ours": [{"ops/s": 1200.0, "ms": 0.1234}], "theirs": [{"ops/s": 600.0, "ms": 9.0}]}
    twice = Target("at least", 2, "ratio")
    findings.add("GET", rounds, {("ours", "ms"): Target("below", 0.1), ("theirs", "ops/s"): twice})
    assert report.section("get", "One key.", findings) == (
        "## get\n\nOne key.\n\n"
        "| case | contender | ops/s | ms    | ratio | target                |\n"
        "| ---- | --------- | ----- | ----- | ----- | --------------------- |\n"
        "| GET  | ours      | 1,200 | 0.123 |       | ms below 0.1: MISSED  |\n"
        "| GET  | theirs    | 600   | 9     | 2.00  | ratio at least 2: met |\n"
        "\n- etcd is missing\n"
    )
    text = report.markdown({"disk": "ext4"}, [report.section("get", "One key.", findings)])
    assert text.startswith("# Benchmark\n\n- disk: ext4\n")
    assert "\n## get\n" in text
    figures = json.loads(report.as_json({"disk": "ext4"}, {"get": findings}))["parts"]["get"]["figures"]
    assert figures[2]["values"] == [600.0]
    assert figures[2]["target"] == {"comparison": "at least", "limit": 2, "of": "ratio", "met": True}


def test_cases_of_other_metrics_have_a_table_of_their_own() -> None:
    findings = Findings()
    for case, metrics in {"GET": {"ops/s": 2.0, "ms": 1.0}, "PUT": {"ms": 3.0}, "fault": {"silent s": 4.0}}.items():
        findings.add(case, {"ours": [metrics]})
    heads = [line for line in report.section("get", "One key.", findings).splitlines() if line.startswith("| case")]
    assert heads == [
        "| case | contender | ops/s | ms | ratio | target |",
        "| case  | contender | silent s | ratio | target |",
    ]


def test_several_rounds_are_shown_with_their_range() -> None:
    assert report.cell(Figure("case", "ours", "ops/s", [300.0, 100.0, 200.0])) == "200 (100-300)"


def test_the_manual_names_every_part() -> None:
    section = (
        (Path(__file__).parents[2] / "kvserver/manual/performance.md").read_text().partition("## Run the benchmarks")[2]
    )
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(PARTS)
