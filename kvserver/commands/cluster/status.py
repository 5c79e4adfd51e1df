"""`kvserver cluster status`: what each machine of a cluster says of itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kvserver.commands.operate.cluster_figures import cluster_problems, progress_words
from kvserver.commands.operate.figures import branch, member
from kvserver.commands.parts.command import Invocation
from kvserver.commands.parts.servers import URL_VARIABLE, server_url
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
    urls = [url for part in server_url(run.url).split(",") if (url := part.strip())]
    rows: list[Sequence[str]] = []
    problems: list[str] = []
    states: dict[str, Mapping[str, Any]] = {}
    for url in dict.fromkeys(urls):
        state, problem = _ask(run, url)
        if state is None:
            rows.append(("?", url, "no answer", "", "", "", ""))
            problems.append(f"{url}: {problem}")
            continue
        if run.as_json:
            run.out.document({"url": url, "revision": state.get("revision"), "cluster": state.get("cluster")})
        states[url] = state
        rows.append(machine_row(url, state))
        problems += [f"{url}: {problem}" for problem in _problems(state)]
    if not run.as_json:
        for line in aligned([_HEADERS, *rows], frozenset((4, 5, 6))):
            run.out.line(line)
    problems += mismatches(states)
    for problem in problems:
        run.out.say(problem)
    if len(states) == len(rows) and (names := unasked(states.values())):
        run.out.say(f"not asked: {', '.join(names)}; name the URLs of all machines with --url, or in {URL_VARIABLE}")
    return 1 if problems else 0


def _ask(run: Invocation, url: str) -> tuple[Mapping[str, Any] | None, str]:
    """Return what a server says of itself, or None and why it does not."""
    from kvserver.client.errors import KVError

    client = Invocation(url, run.token_file, 0.0, run.timeout, run.as_json, False, True).client
    try:
        return client.status().raw, ""
    except KVError as error:
        return None, str(error)
    finally:
        client.close()


def mismatches(states: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield which of the machines, by URL, do not belong together."""
    first: dict[str, str] = {}
    for url, state in states.items():
        cluster = branch(state, "cluster")
        if not cluster:
            continue
        node = str(cluster.get("node"))
        if node in first:
            yield f"{first[node]} and {url} are both {node}: name each machine once"
        first.setdefault(node, url)
    for what, meaning in (("store", "are machines of different clusters"), ("epoch", "have different histories")):
        found = {state.get(what): url for url, state in states.items() if branch(state, "cluster")}
        if len(found) > 1:
            yield f"{' and '.join(found.values())} {meaning}"
            return


def unasked(states: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of machines that others speak of, and that were not asked themselves."""
    clusters = [branch(state, "cluster") for state in states]
    asked = {cluster.get("node") for cluster in clusters}
    known = {str(node.get("name")) for cluster in clusters for node in cluster.get("nodes", [])}
    return sorted(known - asked)


def machine_row(url: str, state: Mapping[str, Any]) -> Sequence[str]:
    """Return what the table says of a machine, by its status."""
    cluster = branch(state, "cluster")
    members = " ".join(str(node.get("name")) for node in cluster.get("nodes", []) if node.get("member"))
    order = branch(cluster, "order")
    return (
        str(cluster.get("node", "-")),
        url,
        _word(cluster),
        members,
        progress_words(cluster) if order else "",
        str(int(member(order, "lag"))) if order else "",
        str(state.get("revision", "")),
    )


def _word(cluster: Mapping[str, Any]) -> str:
    if not cluster:
        return "alone"
    if cluster.get("stopped"):
        return "stopped"
    if cluster.get("current"):
        return "current"
    if cluster.get("member"):
        return "member"
    return "catching up" if member(cluster, "order", "lag") else "out"


def _problems(state: Mapping[str, Any]) -> list[str]:
    if not branch(state, "cluster"):
        return ["this server is no machine of a cluster"]
    return list(cluster_problems(state))
