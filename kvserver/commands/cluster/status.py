"""`kvserver cluster status`: what each machine of a cluster says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvserver.commands.operate.cluster_figures import cluster_problems, progress_words
from kvserver.commands.operate.figures import branch, member
from kvserver.commands.parts.command import Invocation
from kvserver.commands.parts.servers import server_url
from kvserver.commands.parts.texts import aligned

HELP = """Show what each machine of a cluster says of itself: --url names them all.

If the servers have tokens, it needs one that grants admin, or read on all keys. The status is 1 if a machine cannot be
reached, or something is wrong.

\b
Example:
  kvserver cluster status --url http://10.0.0.1:8080 --url http://10.0.0.2:8080 --url http://10.0.0.3:8080
"""
_HEADERS = ("node", "url", "state", "members", "message", "behind", "revision")


def show_machines(run: Invocation) -> int:
    """Run the command; return the exit status."""
    from kvserver.client.errors import KVError

    urls = [url.strip() for url in server_url(run.url).split(",")]
    rows: list[Sequence[str]] = []
    problems: list[str] = []
    for url in urls:
        client = Invocation(url, run.token_file, 0.0, run.timeout, run.as_json, False, True).client
        try:
            state = client.status().raw
        except KVError as error:
            rows.append(("?", url, "no answer", "", "", "", ""))
            problems.append(f"{url}: {error}")
            continue
        finally:
            client.close()
        if run.as_json:
            run.out.document({"url": url, "revision": state.get("revision"), "cluster": state.get("cluster")})
        rows.append(machine_row(url, state))
        problems += [f"{url}: {problem}" for problem in _problems(state)]
    if not run.as_json:
        for line in aligned([_HEADERS, *rows], frozenset((4, 5, 6))):
            run.out.line(line)
    for problem in problems:
        run.out.say(problem)
    return 1 if problems else 0


def machine_row(url: str, state: Mapping[str, Any]) -> Sequence[str]:
    """Return what the table says of a machine, by its status."""
    cluster = branch(state, "cluster")
    members = " ".join(str(node.get("name")) for node in cluster.get("nodes", []) if node.get("member"))
    order = branch(cluster, "order")
    lag = int(member(order, "lag"))
    told = "current" if cluster.get("current") else "member" if cluster.get("member") else "out"
    if told == "out" and lag:
        told = "catching up"
    return (
        str(cluster.get("node", "-")),
        url,
        told if cluster else "alone",
        members,
        progress_words(cluster) if order else "",
        str(lag) if order else "",
        str(state.get("revision", "")),
    )


def _problems(state: Mapping[str, Any]) -> list[str]:
    if not branch(state, "cluster"):
        return ["this server is no machine of a cluster"]
    return list(cluster_problems(state))
