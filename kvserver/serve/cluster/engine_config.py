"""The configuration of the engine, a nats-server. Pure.

Each machine has a user of its own, whose password follows from the cluster's secret. It may publish under its own name
alone; nobody but the engine writes what was taken (`kv.out`). Engines know each other by the secret, and with TLS by
their certificates.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kvserver.serve.cluster.addresses import Machine
from shards.order import stream

ACCOUNT: Final = "KV"
_ROUTES_USER: Final = "engines"
_MAX_PAYLOAD: Final = 1 << 20
_LOG_BYTES: Final = 16 << 20


@dataclass(frozen=True)
class Tls:
    """Files in PEM: this machine's certificate and key, and the authority that signed those of all machines."""

    cert: Path
    key: Path
    ca: Path


@dataclass(frozen=True)
class EngineFacts:
    """What the configuration of one engine is made of.

    Attributes:
        machine: whose engine it is.
        machines: all, with that one.
        secret: which all machines share.
        directory: where it keeps its messages.
        tls: None for plain connections.
        log_file: None for standard error.
    """

    machine: Machine
    machines: Sequence[Machine]
    secret: bytes
    directory: Path
    tls: Tls | None = None
    log_file: Path | None = None


def password_of(secret: bytes, user: str) -> str:
    """Return the password of a user, which only those who know the secret can tell."""
    return hmac.new(secret, b"kvserver cluster: " + user.encode(), hashlib.sha256).hexdigest()


def cluster_name(secret: bytes) -> str:
    """Return a name that engines of another cluster, which got an address of this one, do not have."""
    return f"kv-{password_of(secret, 'name')[:8]}"


def render(facts: EngineFacts) -> str:
    """Return the text of the configuration file. It holds passwords."""
    own = facts.machine
    cluster = cluster_name(facts.secret)
    users = "\n".join(_render_user(facts.secret, machine.name) for machine in facts.machines)
    return f"""# Written at each start of kvserver. Changes are lost.
server_name: {_quoted(f"{cluster}-{own.name}")}
listen: {_quoted(own.address)}
http: {own.monitor}
max_payload: {_MAX_PAYLOAD}
{_render_log(facts)}
jetstream {{
  store_dir: {_quoted(str(facts.directory))}
  sync_interval: always
}}
accounts {{
  {ACCOUNT} {{
    jetstream: enabled
    users: [
{users}
    ]
  }}
}}
{_render_tls(facts.tls, "")}
cluster {{
  name: {_quoted(cluster)}
  listen: {_quoted(own.route)}
  no_advertise: true
  authorization {{ user: {_ROUTES_USER}, password: {_quoted(password_of(facts.secret, _ROUTES_USER))}, timeout: 3 }}
  routes: [{", ".join(_route_url(facts, machine) for machine in facts.machines)}]
{_render_tls(facts.tls, "  ")}
}}
"""


def _render_user(secret: bytes, node: str) -> str:
    publish = [
        f"{stream.LOG}.{node}",
        f"{stream.TELL}.{node}",
        f"{stream.ASK}.*.{node}",
        stream.INFO,
        stream.CREATE,
        stream.PURGE,
        f"$JS.API.STREAM.DELETE.{stream.NAME}",
        f"$JS.API.STREAM.LEADER.STEPDOWN.{stream.NAME}",
        stream.DIRECT,
        f"{stream.DIRECT}.>",
    ]
    subscribe = [f"{stream.OUT}.>", f"{stream.TELL}.>", f"{stream.ASK}.{node}.*", "_INBOX.>"]
    return (
        f"      {{ user: {_quoted(node)}, password: {_quoted(password_of(secret, node))},\n"
        f"        permissions {{ publish: {json.dumps(publish)}, subscribe: {json.dumps(subscribe)} }} }}"
    )


def _render_log(facts: EngineFacts) -> str:
    if facts.log_file is None:
        return "logtime: false"
    return f"log_file: {_quoted(str(facts.log_file))}\nlogfile_size_limit: {_LOG_BYTES}"


def _render_tls(tls: Tls | None, indent: str) -> str:
    if tls is None:
        return ""
    files = f"cert_file: {_quoted(str(tls.cert))}, key_file: {_quoted(str(tls.key))}, ca_file: {_quoted(str(tls.ca))}"
    return f"{indent}tls {{ {files}, verify: true, timeout: 5 }}"


def _route_url(facts: EngineFacts, machine: Machine) -> str:
    return _quoted(f"nats://{_ROUTES_USER}:{password_of(facts.secret, _ROUTES_USER)}@{machine.route}")


def _quoted(text: str) -> str:
    """Return a text as the configuration's parser reads it back."""
    return json.dumps(text, ensure_ascii=False)
