"""/metrics of the real server: against known work, over deaths and replacements, and as Prometheus itself takes it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect

from kvserver.cli import main
from tests.system import feeds
from tests.system.harness import Server, processes_of, wait_for
from tests.system.load import Load
from tests.system.raw import HANDSHAKE, Raw, request

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
DEPLOY = Path(__file__).parents[2] / "deploy"
COUNTING = ("_total", "_bucket", "_count", "_sum")


def samples(server: Server) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(server.metrics())
        for sample in family.samples
    }


def total(found: Samples, name: str, **labels: str) -> float:
    """The sum over all series of `name` with these labels."""
    return sum(value for (own, has), value in found.items() if own == name and labels.items() <= dict(has).items())


def counted(found: Samples) -> Counter[tuple[str, str, str]]:
    """Requests by method, path and status, but the question whether it is ready, which the supervisor asks."""
    return Counter(
        {
            (dict(has)["method"], dict(has)["path"], dict(has)["status"]): int(value)
            for (name, has), value in found.items()
            if name == "http_requests_total" and dict(has)["path"] != "/health/ready"
        }
    )


def settled(server: Server, condition: Callable[[Samples], bool]) -> Samples:
    """Figures once `condition` holds: they are shown a few times a second."""
    last: list[Samples] = []

    def look() -> bool:
        last[:] = [samples(server)]
        return condition(last[0])

    wait_for(look, "the figures")
    return last[0]


def raw(server: Server, data: bytes) -> bytes:
    """The head of the answer to `data`."""
    with server.connect() as connection:
        connection.sendall(data)
        return Raw(connection).head()


def known_work(server: Server) -> None:
    """Twelve puts and more, as `WORK` and `KINDS` count it."""
    with server.client() as client:
        for n in range(5):
            client.put(f"/v1/kv/work/{n}", content=b"v")
            client.put(f"/v1/kv/work/{n}", content=b"v", headers={"X-Odd": "1"})  # the ordinary road
        for headers in ({}, {"X-Odd": "1"}):
            client.get("/v1/kv/work/1", headers=headers)
            client.get("/absent-key", headers=headers)
        client.post("/v1/kv/work/count?incr=1")
        client.patch("/v1/kv/work/json", content=b"{}", headers={"Content-Type": "application/merge-patch+json"})
        for _ in range(3):
            client.post("/v1/kv/work/0?ttl=1000")
        for n in (3, 4, 4):
            client.delete(f"/v1/kv/work/{n}")
        operations = [{"op": "put", "key": f"{{w}}{n}", "value": "1"} for n in range(3)]
        client.post("/v1/batch", json={"atomic": True, "ops": operations})
        client.put("/v1/kv/work/short?ttl=0.05", content=b"")
        wait_for(lambda: client.head("/v1/kv/work/short").status_code == 404, "its end")
        client.delete("/v1/kv?prefix=work/")
        client.put("/v1/kv/" + "k" * 600, content=b"too long")


KINDS = {"put": 16, "touch": 3, "delete": 2, "expire": 1, "delete_prefix": 5, "evict": 0}
WORK = {
    ("PUT", "/v1/kv/:key", "201"): 6,
    ("PUT", "/v1/kv/:key", "204"): 5,
    ("PUT", "/v1/kv/:key", "414"): 1,
    ("GET", "/:key", "200"): 2,
    ("GET", "/v1/kv/:key", "200"): 2,
    ("POST", "/v1/kv/:key", "201"): 1,
    ("POST", "/v1/kv/:key", "204"): 3,
    ("PATCH", "/v1/kv/:key", "201"): 1,
    ("DELETE", "/v1/kv/:key", "204"): 2,
    ("DELETE", "/v1/kv/:key", "404"): 1,
    ("POST", "/v1/batch", "200"): 1,
    ("DELETE", "/v1/kv", "200"): 1,
}


def test_figures_are_what_was_done(server: Server) -> None:
    since = feeds.now(server)
    before = samples(server)
    known_work(server)
    events = sum(KINDS.values())
    messages, _ = feeds.polled(server, since)
    assert sum(len(message.get("events", [])) for message in messages) == events

    def done(found: Samples, kind: str) -> float:
        name = "kvserver_shard_operations_total"
        return total(found, name, kind=kind) - total(before, name, kind=kind)

    after = settled(
        server,
        lambda found: (
            WORK.keys() <= (counted(found) - counted(before)).keys()
            and done(found, "delete_prefix") == KINDS["delete_prefix"]
        ),
    )
    assert {kind: done(after, kind) for kind in KINDS} == KINDS
    requests = counted(after) - counted(before)
    for method, path in ("HEAD", "/v1/kv/:key"), ("GET", "/v1/feed"):  # as many as it took
        del requests[method, path, "200"], requests[method, path, "404"]
    assert requests == WORK
    assert total(after, "kvserver_shard_keys") == 3 == total(before, "kvserver_shard_keys") + 3
    assert total(after, "kvserver_shard_bytes") == 3 * len("{w}0=")
    for what in ("append", "flush", "apply"):
        name = f"kvserver_shard_{what}_seconds_total"
        assert total(after, name) > total(before, name)
    history = total(after, "kvserver_log_next_revision") - total(before, "kvserver_log_next_revision")
    assert history >= events - 2  # an atomic batch is one record, but each of its changes has a revision; marks besides
    files = len([path for path in (server.data_dir / "log").iterdir() if path.suffix not in (".spare", ".new")])
    assert total(after, "kvserver_log_segments") == files
    assert total(after, "kvserver_log_bytes") > total(before, "kvserver_log_bytes")
    assert total(after, "kvserver_memory_used_bytes") == 3 * len("{w}0=")


def test_the_status_shows_the_same_figures(server: Server) -> None:
    """Of all processes together. Both are shown at once, so two looks agree unless figures were shown in between."""

    def agree() -> bool:
        told, found = server.status(), samples(server)
        traffic, operations = told["traffic"], Counter[str]()
        for shard in told["shards"]:
            operations.update(shard["operations"])
        classes = Counter(dict.fromkeys(traffic["requests"], 0))
        for (name, labels), value in found.items():
            if name == "http_requests_total":
                classes[dict(labels)["status"][0] + "xx"] += int(value)
        bounds, bucket = traffic["durations"]["bounds_s"], "http_requests_duration_seconds_bucket"
        cumulated = [total(found, bucket, le=str(le)) for le in (*bounds, "+Inf")]
        feed = {name: total(found, f"kvserver_feed_{name}_total") for name in ("events", "deliveries", "gaps")}
        return (
            classes == traffic["requests"]
            and cumulated == list(accumulate(traffic["durations"]["counts"]))
            and operations == {kind: total(found, "kvserver_shard_operations_total", kind=kind) for kind in operations}
            and feed.items() <= told["feed"].items()
        )

    known_work(server)
    feeds.poll(server, since="0.1")
    settled(server, lambda found: total(found, "kvserver_feed_gaps_total") > 0)
    wait_for(agree, "the same figures")
    traffic = server.status()["traffic"]
    assert min(traffic["requests"][name] for name in ("2xx", "4xx")) > 0
    assert traffic["durations"]["total_s"] > 0
    assert min(shard["flush_s"] for shard in server.status()["shards"]) > 0


def test_every_road_of_a_feed_is_counted_once_by_who_answers(server: Server) -> None:
    refused = request("GET", "/v1/feed?x=1", {"Host": "a"}), ("GET", "/v1/feed", "400")  # by the gateway
    earlier = counted(samples(server))[refused[1]]
    raw(server, refused[0])  # figures are shown together: with this one all that was before it
    before = counted(settled(server, lambda found: counted(found)[refused[1]] > earlier))
    sent = [
        refused,
        (request("GET", "/v1/feed", {"Host": "a"}), ("GET", "/v1/feed", "200")),
        (request("GET", "/wal?x", HANDSHAKE), ("GET", "/wal", "101")),
        (request("GET", "/v1/feed", HANDSHAKE), ("GET", "/v1/feed", "101")),
        (request("GET", "/wal", {"Host": "a"}), ("GET", "/wal", "400")),  # the worker refuses
    ]
    for data, (_, _, status) in sent:
        assert raw(server, data).startswith(f"HTTP/1.1 {status} ".encode())
    wanted = Counter(labels for _, labels in sent)
    after = settled(server, lambda found: not wanted - (counted(found) - before))
    found = counted(after) - before
    del found["GET", "/v1/status", "200"]  # of earlier tests, shown late
    assert found == wanted
    assert total(after, "http_requests_duration_seconds_count", path="/wal") == sum(
        count for (_, path, _), count in counted(after).items() if path == "/wal"
    )


def test_no_page_reads_them_by_another_name(new_server: Callable[..., Server], tmp_path: Path) -> None:
    """Whether there are tokens or not: nobody needs one here."""
    tokens = tmp_path / "tokens.toml"
    tokens.touch(0o600)
    named = ("--allowed-hosts", "kv.example", "--origins", "https://a.example")
    with new_server("--shards", "1", "--workers", "1", "--tokens", str(tokens), *named).start() as server:
        url, evil = f"http://127.0.0.1:{server.metrics_port}/metrics", {"Origin": "https://evil.example"}
        for headers, status in (
            ({"Host": "evil.example"}, 421),
            ({"Host": "evil.example:3001"}, 421),
            ({"Host": "kv.example:3001"}, 200),
            ({"Host": "localhost"}, 200),
            ({"Host": "[::1]:3001"}, 200),
            ({}, 200),
            (evil, 403),
        ):
            for method in ("GET", "HEAD"):
                answer = httpx.request(method, url, headers=headers, trust_env=False)
                assert answer.status_code == status, (method, headers)
                assert (b"kvserver_info" in answer.content) == (status == 200 and method == "GET")
                assert "access-control-allow-origin" not in answer.headers


def test_on_an_address_for_other_machines_they_need_a_token_that_grants_admin(
    new_server: Callable[..., Server], tmp_path: Path
) -> None:
    file = str(tmp_path / "tokens.toml")
    tokens = {}
    for name, grant in (("all", "admin"), ("some", "read,write,feed")):
        made = CliRunner().invoke(main, ["token", "new", name, "--grant", grant, "--tokens", file])
        tokens[name] = made.stdout.strip()
    options = ("--shards", "1", "--workers", "1", "--metrics-host", "0.0.0.0")
    with new_server(*options, "--tokens", file).start() as server:
        assert "metrics, and the tokens of those who read them, travel unencrypted" in server.banner
        url = f"http://127.0.0.1:{server.metrics_port}/metrics"
        for given, status in ((None, 401), ("kv_wrong", 401), (tokens["some"], 403), (tokens["all"], 200)):
            headers = {} if given is None else {"Authorization": f"Bearer {given}"}
            for method in ("GET", "HEAD"):
                answer = httpx.request(method, url, headers=headers, trust_env=False)
                assert answer.status_code == status, (method, given)
                assert (answer.headers.get("www-authenticate") == "Bearer") == (status == 401)
                assert (b"kvserver_info" in answer.content) == (status == 200 and method == "GET")
        revoked = CliRunner().invoke(main, ["token", "revoke", "all", "--tokens", file])
        assert revoked.exit_code == 0, revoked.output
        headers = {"Authorization": f"Bearer {tokens['all']}"}
        wait_for(lambda: httpx.get(url, headers=headers, trust_env=False).status_code == 401, "an end of the token")
    with new_server(*options).start() as server:
        assert "everybody who can reach the address of the metrics" in server.banner
        assert httpx.get(f"http://127.0.0.1:{server.metrics_port}/metrics", trust_env=False).status_code == 200


def test_clients_of_the_feed_and_what_they_get(server: Server) -> None:
    def grown(found: Samples, name: str) -> float:
        return total(found, f"kvserver_feed_{name}_total") - total(before, f"kvserver_feed_{name}_total")

    gaps = total(samples(server), "kvserver_feed_gaps_total")
    feeds.poll(server, since="0.1")  # figures are shown together: with this gap all that was before it
    before = settled(
        server,
        lambda found: total(found, "kvserver_feed_gaps_total") > gaps and total(found, "kvserver_feed_clients") == 0,
    )
    with connect(server.feed_url, proxy=None) as one, connect(server.feed_url, proxy=None) as two:
        settled(server, lambda found: total(found, "kvserver_feed_clients") == 2)
        with server.client() as client:
            for n in range(4):
                client.put(f"/v1/kv/seen-{n}", content=b"")
        for feed in (one, two):
            while "seen-3" not in feed.recv(15):
                pass
        after = settled(server, lambda found: grown(found, "deliveries") >= 8)
        assert total(after, "kvserver_feed_lag_revisions") == 0
    # Heartbeats are activity; marks of the supervisor are revisions that nobody is shown.
    assert grown(after, "deliveries") - 2 * grown(after, "activity") <= 8 <= grown(after, "deliveries")
    feeds.poll(server, since="0.1")
    settled(server, lambda found: grown(found, "gaps") == 1 and total(found, "kvserver_feed_clients") == 0)


class Scrapes:
    """Scrapes taken one after the other; no counter may ever be less than before, or be gone."""

    def __init__(self, server: Server) -> None:
        self._server, self.last = server, samples(server)

    def look(self) -> Samples:
        found = samples(self._server)
        for series, value in self.last.items():
            if series[0].endswith(COUNTING):
                assert found.get(series, -1) >= value, f"{series} was {value}, is {found.get(series)}"
        self.last = found
        return found

    def until(self, condition: Callable[[Samples], bool]) -> None:
        wait_for(lambda: condition(self.look()), "what the figures shall show")


def worker_of(app: str, server: Server) -> int:
    """The pid of a process that the gunicorn master of `app` started."""
    for pid in processes_of(server.run_dir):
        with contextlib.suppress(OSError):
            if app.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                if children:
                    return int(children[0])
    raise AssertionError(f"{app} has no worker")


def test_counters_survive_those_who_counted(server: Server) -> None:
    known_work(server)
    with connect(server.feed_url, proxy=None) as feed:
        feed.ping().wait(10)
        wanted = counted(settled(server, lambda found: total(found, "kvserver_feed_clients") == 1))
        scrapes = Scrapes(server)
        first = scrapes.last

        def started(found: Samples, kind: str) -> float:
            name = "kvserver_process_starts_total"
            return total(found, name, process=kind) - total(first, name, process=kind)

        os.kill(worker_of("kvserver.gateway:app", server), signal.SIGKILL)
        scrapes.until(lambda found: started(found, "gateway") == 1 and total(found, "kvserver_gateways") == 1)
    for deaths in (1, 2):
        os.kill(worker_of("kvserver.app:app", server), signal.SIGKILL)
        scrapes.until(lambda found: started(found, "web") == deaths and total(found, "kvserver_workers") == 2)  # noqa: B023
    os.kill(server.shard_pids()[0], signal.SIGKILL)
    scrapes.until(lambda found: total(found, "kvserver_process_restarts_total", process="shard 0") == 1)
    scrapes.until(lambda found: total(found, "kvserver_shard_up") == 2)
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    scrapes.until(lambda found: started(found, "web") == 4 and total(found, "kvserver_workers") == 2)
    scrapes.until(lambda found: total(found, "kvserver_feed_clients") == 0)
    assert counted(scrapes.last) >= wanted
    # Two files for each that lives and for all the dead together.
    wait_for(lambda: len(list((server.run_dir / "metrics").iterdir())) <= 2 * (2 + 1 + 1), "the dead swept away")
    assert counted(scrapes.look()) >= wanted


# Prometheus itself.

needs_prometheus = pytest.mark.skipif(
    shutil.which("promtool") is None or shutil.which("prometheus") is None,
    reason="Debian's package prometheus is not installed",
)


@needs_prometheus
def test_promtool_has_nothing_to_say(server: Server) -> None:
    known_work(server)
    text = settled(server, lambda found: counted(found)["PUT", "/v1/kv/:key", "414"] > 0) and server.metrics()
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@contextmanager
def prometheus(server: Server, directory: Path, rules: Sequence[Path] = ()) -> Iterator[httpx.Client]:
    """A Prometheus that scrapes the server and evaluates `rules`, and a client of its API."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [
            {"job_name": "kvserver", "static_configs": [{"targets": [f"127.0.0.1:{server.metrics_port}"]}]}
        ],
    }
    (directory / "prometheus.yml").write_text(json.dumps(config))  # which is YAML
    with (directory / "said").open("wb") as said:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={directory}/prometheus.yml",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=said,
            stderr=said,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False, timeout=15) as client:
            yield client
    finally:
        process.terminate()
        process.wait(20)


@needs_prometheus
def test_prometheus_scrapes_and_answers(server: Server, tmp_path: Path) -> None:
    known_work(server)
    puts = total(samples(server), "kvserver_shard_operations_total", kind="put")

    def value(client: httpx.Client, query: str) -> float | None:
        try:
            answer = client.get("/query", params={"query": query}).raise_for_status().json()
        except httpx.HTTPError:  # it starts
            return None
        result = answer["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    with prometheus(server, tmp_path) as client:
        wait_for(lambda: value(client, 'up{job="kvserver"}') == 1, "a scrape")
        asked_for = "sum(kvserver_shard_operations_total{kind='put'})"
        wait_for(lambda: value(client, asked_for) == puts, f"{puts} puts")
        assert value(client, "count(http_requests_duration_seconds_bucket{le='+Inf',path='/v1/kv/:key'})")
        assert value(client, "sum(kvserver_shard_up)") == 2
        (target,) = client.get("/targets").json()["data"]["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")


def dashboard_queries() -> list[str]:
    """The queries of the dashboard, with its variables replaced."""
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    found += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    for variable, value in (("$job", "kvserver"), ("$instance", ".*"), ("$__rate_interval", "4s")):
        found = [query.replace(variable, value) for query in found]
    return found


OF_CLUSTER = ("kvserver_cluster_", "kvserver_order_")
QUIET = ("kvserver_start_time_seconds", 'status=~"[45]..', *OF_CLUSTER)
"""Queries with these have no result while the server is alone, does not start again, and is asked for nothing wrong."""


@needs_prometheus
def test_every_query_of_the_dashboard_and_the_rules_has_an_answer(server: Server, tmp_path: Path) -> None:
    rules = DEPLOY / "kvserver.rules.yml"

    def result(client: httpx.Client, query: str) -> list[Any]:
        answer = client.get("/query", params={"query": query})
        assert answer.status_code == 200, (query, answer.text)
        found: list[Any] = answer.json()["data"]["result"]
        return found

    queries = dashboard_queries()
    assert len(queries) > 30 and not any("$" in query for query in queries)
    with Load((server.host, server.port), writers=2), prometheus(server, tmp_path, [rules]) as client:
        wait_for(lambda: is_scraped(client), "a scrape")
        for query in queries:
            if not any(word in query for word in QUIET):
                wait_for(lambda: result(client, query), f"a result of {query}")  # noqa: B023
            assert isinstance(result(client, query), list)
        groups = client.get("/rules").json()["data"]["groups"]
        assert [rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "err"] == []
        recorded = re.findall(r"record: (\S+)", rules.read_text())
        for name in recorded:
            if "failed" not in name:
                wait_for(lambda: result(client, name), f"a result of {name}")  # noqa: B023
        assert [alert["labels"]["alertname"] for alert in client.get("/alerts").json()["data"]["alerts"]] == []


def is_scraped(client: httpx.Client) -> bool:
    try:
        found = client.get("/query", params={"query": 'up{job="kvserver"} == 1'}).raise_for_status().json()
    except httpx.HTTPError:  # it starts
        return False
    return bool(found["data"]["result"])
