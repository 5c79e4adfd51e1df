"""The calls about the server itself: its state, the token's bearer, tickets. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from kvserver.client.core.answers import document_of, is_problem, member, moment_of
from kvserver.client.core.calls import Answer, Call, Kind
from kvserver.client.core.values import JSON, json_bytes
from kvserver.client.errors import BadRequest, ForeignAnswer
from kvserver.client.model import Grant, Identity, Status, Ticket, TicketFor


def status() -> Call[Status]:
    """Return the call that reads the state of the server."""

    def read(answer: Answer) -> Status:
        document = document_of(answer)
        version, store, epoch = (member(document, name, str) for name in ("version", "store", "epoch"))
        revision, oldest = (member(document, name, int) for name in ("revision", "oldest"))
        uptime = document.get("uptime_s")
        uptime_s = float(uptime) if isinstance(uptime, (int, float)) else 0.0
        return Status(version, store, epoch, revision, oldest, uptime_s, document)

    return Call("GET", "/v1/status", read)


def ping() -> Call[None]:
    """Return the call that asks whether a kvserver answers."""

    def read(answer: Answer) -> None:
        if answer.body != b"pong":
            raise ForeignAnswer("an answer to /ping that is not pong")

    return Call("GET", "/ping", read)


def ready() -> Call[bool]:
    """Return the call that asks whether every shard is up."""
    return Call("GET", "/health/ready", _is_ready, accepts=frozenset((503,)))


def ticket(purpose: TicketFor, prefix: str, grants: Sequence[Grant] | None, ttl: float | None) -> Call[Ticket]:
    """Return the call that asks for a ticket; `prefix` is put before those of `grants`. Raises `BadRequest`."""

    def read(answer: Answer) -> Ticket:
        document = document_of(answer)
        return Ticket(member(document, "ticket", str), moment_of(document.get("expires")))

    if purpose not in ("sse", "websocket", "kv"):
        raise BadRequest(f"a ticket is for 'sse', 'websocket' or 'kv', not for {purpose!r}")
    if (grants is None) == (purpose == "kv") or (ttl is not None and purpose != "kv"):
        raise BadRequest("a ticket for 'kv' has grants and may have a ttl; others have neither")
    asked: dict[str, object] = {"for": purpose}
    if grants is not None:
        asked["grants"] = [{"prefix": prefix + each.prefix, "allow": list(each.allow)} for each in grants]
    if ttl is not None:
        asked["ttl"] = ttl
    body = json_bytes(asked)
    return Call("POST", "/v1/tickets", read, Kind.READ, {"Content-Type": JSON}, body)  # one that is not used expires


def whoami() -> Call[Identity]:
    """Return the call that asks whose token the client sends, and what it may do."""

    def read(answer: Answer) -> Identity:
        document = document_of(answer)
        grants = [
            Grant(member(grant, "prefix", str), tuple(member(grant, "allow", list)))
            for grant in member(document, "grants", list)
        ]
        name = document.get("name")
        return Identity(name if isinstance(name, str) else None, grants)

    return Call("GET", "/v1/whoami", read)


def _is_ready(answer: Answer) -> bool:
    """Tell whether it is so. Raises `ForeignAnswer` for an answer of another server."""
    if answer.status == 503 and is_problem(answer):
        return False
    if answer.status != 200 or document_of(answer).get("status") != "ready":
        raise ForeignAnswer(f"an answer {answer.status} to /health/ready that is not about shards")
    return True
