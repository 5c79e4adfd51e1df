"""What a machine of a cluster says of itself and the others, in words. Pure.

A state is the document of GET /v1/status; its `cluster` is null or missing where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kvserver.commands.operate.figures import branch, member


def cluster_words(state: Mapping[str, Any]) -> str:
    """Return machine and members in a line: `a of a b (c is out)`; an empty text: there is no cluster."""
    cluster = branch(state, "cluster")
    if not cluster:
        return ""
    nodes = cluster.get("nodes", [])
    members = " ".join(str(node.get("name")) for node in nodes if node.get("member")) or "none"
    out = " ".join(str(node.get("name")) for node in nodes if not node.get("member"))
    lag, progress = int(member(cluster, "order", "lag")), progress_words(cluster)
    words = f"{cluster.get('node')} of {members}"
    words += f" ({out} out)" if out else ""
    return words + (f", at message {progress}, {lag:,} behind" if lag else "")


def progress_words(cluster: Mapping[str, Any]) -> str:
    """Return how far a machine is in the order: `12,345`; while it catches up, `12,345 of 67,890`."""
    sequence, last = int(member(cluster, "order", "sequence")), int(member(cluster, "order", "last"))
    return f"{sequence:,} of {last:,}" if last > sequence else f"{sequence:,}"


def cluster_problems(state: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the cluster, as this machine sees it."""
    cluster = branch(state, "cluster")
    if not cluster:
        return
    if cluster.get("stopped"):  # it hears of nobody then
        yield f"this machine has stopped: {cluster['stopped']}"
        return
    if not cluster.get("member"):
        yield (
            "this machine is not a member of its cluster: it shows nothing until it has caught up, and is at message "
            f"{progress_words(cluster)}"
        )
    elif not cluster.get("current"):
        yield "this machine has not heard of most of its cluster for a second: it answers 503"
    for node in cluster.get("nodes", []):
        if node.get("name") == cluster.get("node"):
            continue
        if not node.get("member"):
            yield f"machine {node.get('name')} is out of the cluster"
        elif not node.get("reachable"):
            yield f"machine {node.get('name')} does not answer"
    difference = member(cluster, "clock_difference_s")
    if difference > 0.5:
        yield f"the clocks of the machines differ by {difference:.1f} s: set them by NTP"
