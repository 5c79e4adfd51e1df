"""Three servers on one order, by HTTP: what one was told, the others say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.histories import cluster_of, until_ready
from tests.cluster.servers import EPOCH, FIRST, Servers
from tests.system import feeds
from tests.system.harness import Server, wait_for


def get(server: Server, path: str, **headers: str) -> httpx.Response:
    with server.client() as client:
        return client.get(path, headers=headers)


def put(server: Server, key: str, value: str, **headers: str) -> httpx.Response:
    with server.client() as client:
        return client.put(f"/v1/kv/{key}", content=value, headers=headers).raise_for_status()


def test_what_one_machine_was_told_the_others_say(servers: Servers) -> None:
    a, b, c = servers.all
    written = put(a, "k", "v")
    revision = int(written.headers["KV-Revision"])
    assert revision >= FIRST
    for server in (a, b, c):
        read = get(server, "/v1/kv/k")
        assert (read.text, read.headers["ETag"], read.headers["KV-Revision"]) == ("v", f'"{revision}"', str(revision))
        assert get(server, "/k").text == "v"
        page = get(server, "/v1/kv?values=true")
        assert page.headers["KV-Cursor"] == f"{EPOCH}.{revision}"
        assert [item["revision"] for item in page.json()["items"] if item["key"] == "k"] == [revision]
        assert "k" in get(server, "/keys").json()
        batch = server_batch(server, {"op": "get", "key": "k"}, {"op": "get", "key": "absent"})
        assert [result["status"] for result in batch] == [200, 404]
    assert get(b, "/v1/kv/k", **{"If-None-Match": f'"{revision}"'}).status_code == 304
    stale = get(c, "/v1/kv/k", **{"If-Match": '"1"'})
    assert (stale.status_code, stale.headers["ETag"]) == (412, f'"{revision}"')


def server_batch(server: Server, *ops: dict[str, Any]) -> list[dict[str, Any]]:
    with server.client() as client:
        answer = client.post("/v1/batch", json={"ops": ops}).raise_for_status()
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def test_a_cursor_of_one_machine_continues_on_another(servers: Servers) -> None:
    a, b, c = servers.all
    cursor = feeds.now(a)
    revisions = [int(put(servers.all[number % 3], "feed", str(number)).headers["KV-Revision"]) for number in range(9)]
    seen: list[int] = []
    for server in (b, c, a):
        messages, cursor = feeds.polled(server, cursor)
        assert [message["type"] for message in messages if message["type"] == "gap"] == []
        seen += [event["revision"] for message in messages for event in message.get("events", ())]
        revisions.append(int(put(a, "feed", "more").headers["KV-Revision"]))
    messages, cursor = feeds.polled(b, cursor)
    seen += [event["revision"] for message in messages for event in message.get("events", ())]
    assert seen == revisions


def test_a_place_that_a_machine_has_not_reached_is_no_gap(servers: Servers) -> None:
    last = int(put(servers["a"], "k", "v").headers["KV-Revision"])
    answer = feeds.poll(servers["b"], since=f"{EPOCH}.{last + 2}")
    assert answer["messages"] == [] or all(message["type"] != "gap" for message in answer["messages"])


def test_a_request_with_an_idempotency_key_is_done_once_on_any_machine(servers: Servers) -> None:
    first, again = (increment_once(server) for server in servers.all[:2])
    assert (first.text, again.text, get(servers["c"], "/v1/kv/counter").text) == ("1", "1", "1")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["KV-Revision"] == first.headers["KV-Revision"]


def increment_once(server: Server) -> httpx.Response:
    with server.client() as client:
        return client.post("/v1/kv/counter?incr=1", headers={"Idempotency-Key": "one"})


def test_a_read_can_ask_for_a_revision(servers: Servers) -> None:
    last = put(servers["a"], "k", "newest").headers["KV-Revision"]
    assert get(servers["b"], "/v1/kv/k", **{"KV-Min-Revision": last}).text == "newest"
    problem = get(servers["b"], "/v1/kv/k", **{"KV-Min-Revision": str(int(last) + 1000)})
    assert (problem.status_code, problem.json()["code"]) == (503, "not_current")
    assert problem.headers["Retry-After"] == "1"
    assert get(servers["b"], "/v1/kv/k", **{"KV-Min-Revision": "x"}).status_code == 400


def test_a_key_expires_on_all_machines(servers: Servers) -> None:
    with servers["a"].client() as client:
        client.put("/v1/kv/short?ttl=1", content="v").raise_for_status()
    cursor = feeds.now(servers["c"])
    wait_for(lambda: all(get(server, "/v1/kv/short").status_code == 404 for server in servers.all), "it expires")
    deletes = wait_for(lambda: deletes_of(servers["c"], cursor, "short"), "its delete")
    assert len(deletes) == 1


def deletes_of(server: Server, cursor: str, key: str) -> list[dict[str, Any]]:
    messages, _ = feeds.polled(server, cursor)
    events = [event for message in messages for event in message.get("events", ())]
    return [event for event in events if event["key"] == key and event["op"].startswith("delete")]


def test_status_says_who_is_there(servers: Servers) -> None:
    for server, node in zip(servers.all, "abc", strict=True):
        until_ready(server)
        wait_for(lambda server=server: all_there(server), "all are members")
        said = cluster_of(server)
        assert (said["node"], said["member"], said["current"], said["reads"]) == (node, True, True, "linear")
        assert said["order"]["lag"] == 0 <= said["order"]["stable"] <= said["order"]["last"]
        assert said["clock_difference_s"] < 5
    assert {server.status()["epoch"] for server in servers.all} == {EPOCH}


def test_metrics_say_how_far_a_machine_is(servers: Servers) -> None:
    wait_for(lambda: all_there(servers["b"]), "all are members")
    found = dict(line.rsplit(" ", 1) for line in servers["b"].metrics().splitlines() if line.startswith("kvserver_"))
    for node in "abc":
        assert found[f'kvserver_cluster_member{{node="{node}"}}'] == "1.0"
        assert found[f'kvserver_cluster_reachable{{node="{node}"}}'] == "1.0"
    assert found["kvserver_cluster_current"] == "1.0"
    assert float(found["kvserver_order_sequence"]) > 0


def all_there(server: Server) -> bool:
    nodes = cluster_of(server)["nodes"]
    return [node["name"] for node in nodes] == ["a", "b", "c"] and all(n["member"] and n["reachable"] for n in nodes)


def test_a_machine_goes_on_from_its_own_log(servers: Servers) -> None:
    a, b, _ = servers.all
    for end in (b.stop, b.kill):
        cursor = feeds.now(b)
        put(a, "k", "before")
        end()
        revision = put(a, "k", f"while {end.__name__}").headers["KV-Revision"]
        b.start()
        until_ready(b)
        read = get(b, "/v1/kv/k")
        assert (read.text, read.headers["KV-Revision"]) == (f"while {end.__name__}", revision)
        assert b.status()["epoch"] == EPOCH
        messages, _ = feeds.polled(b, cursor)
        assert [message["type"] for message in messages if message["type"] == "gap"] == []
        assert int(put(b, "k", "after").headers["KV-Revision"]) == int(revision) + 1


def test_a_machine_whose_engine_dies_goes_on_with_another(servers: Servers) -> None:
    engine = servers.engines.servers[1]
    engine.kill()
    try:
        revision = wait_for(lambda: try_put(servers["b"], "engine"), "a write without its engine", 60)
        wait_for(lambda: get(servers["a"], "/v1/kv/engine").headers.get("KV-Revision") == revision, "it is on a", 60)
    finally:
        engine.start()
        servers.engines.wait_until_ready()
    for server in servers.all:
        until_ready(server)


def try_put(server: Server, key: str) -> str | None:
    try:
        return put(server, key, "v").headers["KV-Revision"]
    except httpx.HTTPError:
        return None


def test_reads_go_on_while_the_order_takes_nothing(servers: Servers) -> None:
    put(servers["a"], "k", "v")
    gone = servers.engines.servers[1:]
    for engine in gone:
        engine.kill()
    try:
        with servers["a"].client(30) as client:
            refused = client.put("/v1/kv/k", content="other")
        assert refused.status_code in (503, 504)
        for server in servers.all:
            wait_for(lambda server=server: get(server, "/v1/kv/other").status_code == 404, "it reads", 30)
    finally:
        for engine in gone:
            engine.start()
        servers.engines.wait_until_ready()
    wait_for(lambda: try_put(servers["a"], "k"), "writes go on", 60)
    for server in servers.all:
        until_ready(server)


def test_a_stopped_machine_holds_up_the_others_only_for_a_while(servers: Servers) -> None:
    a, _, c = servers.all
    c.kill()
    revision = wait_for(lambda: try_put(a, "k"), "a write without c", 30)
    assert get(a, "/v1/kv/k").headers["KV-Revision"] == revision
    wait_for(lambda: not cluster_of(a)["nodes"][2]["member"], "c is out")
    c.start()
    until_ready(c)
    assert get(c, "/v1/kv/k").headers["KV-Revision"] == revision


def test_an_empty_machine_begins_with_a_backup_of_another(servers: Servers, tmp_path: Path) -> None:
    a, b, _ = servers.all
    put(a, "k", "in the backup")
    b.stop()
    shutil.rmtree(b.data_dir)
    kvserver("backup", str(tmp_path / "backup"), "--data-dir", str(a.data_dir), "--run-dir", str(a.run_dir))
    put(a, "later", "not in the backup")
    kvserver("restore", str(tmp_path / "backup"), "--for-cluster", "--data-dir", str(b.data_dir))
    b.start()
    until_ready(b)
    assert (get(b, "/v1/kv/k").text, get(b, "/v1/kv/later").text) == ("in the backup", "not in the backup")
    assert b.status()["epoch"] == EPOCH
    last = int(put(b, "k", "after").headers["KV-Revision"])
    assert get(a, "/v1/kv/k").headers["KV-Revision"] == str(last)


def kvserver(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "kvserver", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_second_machine_of_the_same_name_does_not_start(servers: Servers, tmp_path: Path) -> None:
    a = servers["a"]
    for server in servers.all:
        until_ready(server)
    entered = a.status()["cluster"]["order"]
    twin = Server(tmp_path / "twin", *a.options)
    try:
        assert twin.spawn().wait(60) == 1
        assert "another machine works under the name 'a'" in twin.log() and "--node" in twin.log()
    finally:
        twin.close()
    assert get(a, "/health/ready").status_code == 200 and cluster_of(a)["stopped"] is None
    assert cluster_of(a)["order"]["sequence"] >= entered["sequence"]
    put(a, "k", "still here")


def test_a_machine_without_the_others_shows_and_writes_nothing(servers: Servers) -> None:
    a, b, c = servers.all
    put(a, "k", "v")
    b.kill()
    c.kill()
    problem = wait_for(lambda: refusal_of(a), "a refuses reads", 30)
    assert problem["code"] == "not_current" and "another machine" in problem["hint"]
    assert get(a, "/health/ready").status_code == 503
    wait_for(lambda: [node["reachable"] for node in cluster_of(a)["nodes"]] == [True, False, False], "it says so")
    servers.start("bc")
    for server in servers.all:
        until_ready(server)
        assert get(server, "/v1/kv/k").text == "v"


def refusal_of(server: Server) -> Any:
    answer = get(server, "/v1/kv/k")
    return answer.json() if answer.status_code == 503 else None
