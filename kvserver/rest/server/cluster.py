"""What a machine of a cluster says of itself and the others, from the words of the board."""

from __future__ import annotations

from typing import Any

from shards.host.board import Board


def describe_cluster(board: Board) -> dict[str, Any] | None:
    """Return what `/v1/status` says of the cluster; None: there is none."""
    facts, words = board.facts, board.order
    if not facts.node:
        return None
    nodes = facts.nodes.split(",")
    members, heard = words.members, words.heard
    return {
        "node": facts.node,
        "reads": facts.reads,
        "member": words.entered > 0,
        "current": words.has_lease(),
        "stopped": board.read_stop() or None,
        "nodes": [
            {"name": node, "member": bool(members >> index & 1), "reachable": bool(heard >> index & 1)}
            for index, node in enumerate(nodes)
        ],
        "order": {
            "sequence": words.sequence,
            "last": words.last,
            "lag": max(0, words.last - words.sequence),
            "stable": words.stable,
            "resent": words.resent,
        },
        "clock_difference_s": words.skew_ms / 1000,
    }


def find_obstacle(board: Board) -> str | None:
    """Return why a machine of a cluster is not ready; None: it is, or there is no cluster."""
    if not board.facts.node:
        return None
    if stopped := board.read_stop():
        return f"this machine has stopped: {stopped}"
    if not board.order.entered:
        return "this machine is not in its cluster yet: it has not caught up, or most of the others are not there"
    if board.facts.reads == "linear" and not board.order.has_lease():
        return "this machine has not heard of most of its cluster for a second"
    return None
