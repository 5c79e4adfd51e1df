"""The server's settings: `shards.settings.ProcessSettings` and what `kvserver serve` adds. One table; the command
line, the environment, the manual and `deploy/kvserver.env` come from it."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from shards.board import MAX_GATEWAYS, MAX_SHARDS
from shards.settings import ProcessSettings, SettingError, boolean, choice, integer, path, setting, size

MAX_VALUE_LIMIT = 32 << 20


def _only(text: str) -> str:
    return choice("store")(text)


def _host(text: str) -> str:
    if text == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        raise ValueError("expected an IP address, for instance 127.0.0.1, ::1 or 0.0.0.0") from None


def _origins(text: str) -> str:
    for origin in text.split(","):
        if origin.strip() != "*" and not origin.strip().startswith(("http://", "https://")):
            raise ValueError("expected * or origins such as https://app.example, separated by commas")
    return text


CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class ServerSettings(ProcessSettings):
    """Everything `kvserver serve` can be told."""

    host: str = setting("127.0.0.1", _host, "ADDRESS", "Address REST and the feed listen on.")
    port: int = setting(
        8080, integer(0, 65535), "PORT", "Port of REST and the feed; 0 picks a free one and prints it.",
        aliases={"PORT": lambda text: text or None},
    )  # fmt: skip
    metrics_port: int = setting(
        3001, integer(0, 65535), "PORT", "Port of /metrics, on 127.0.0.1; 0 picks a free one and prints it.",
        aliases={"METRICS_PORT": lambda text: text or None},
    )  # fmt: skip
    shards: int = setting(
        max(1, CORES // 4), integer(1, MAX_SHARDS), "N",
        "Shard processes, each owning a part of the keys. Any number at any start. Default: a quarter of the cores.",
    )  # fmt: skip
    workers: int = setting(CORES, integer(1, 64), "N", "Web worker processes. Default: the cores.")
    gateways: int = setting(1, integer(1, MAX_GATEWAYS // 2), "N", "Feed gateway processes.")
    sync: str = setting(
        "always", choice("always", "everysec", "os"), "MODE",
        "When a write is acknowledged: always: after it is flushed to the disk; everysec: at once, at most the last "
        "second is lost if the machine fails; os: at once, what the kernel had not written is lost if the machine "
        "fails. A process that dies loses nothing in any mode.",
    )  # fmt: skip
    max_value: int = setting(
        5_120_000,
        size(1, MAX_VALUE_LIMIT),
        "BYTES",
        "Largest value, and largest body of a request that is no batch; at most 32 MiB.",
    )
    max_batch: int = setting(
        32 << 20, size(1 << 10, 128 << 20), "BYTES", "Largest body of a batch (POST /v1/batch); at most 128 MiB.",
    )  # fmt: skip
    max_memory: int | None = setting(
        None, size(1 << 10, 1 << 50), "BYTES",
        "Most bytes of keys and values in all shards together. What would pass it is refused, or makes other keys go: "
        "see --on-full. What maps and shards need beside that (300 to 450 bytes a key) does not count. Default: none; "
        "then growth is refused only when the map directory, the memory or the disk is full.",
    )  # fmt: skip
    on_full: str = setting(
        "reject", choice("reject", "evict"), "MODE",
        "What becomes of a write that would pass --max-memory: reject: it is refused with 507, and nothing is lost; "
        "evict: keys that nobody has read or written for long are deleted for it, as in a cache.",
    )  # fmt: skip
    wal_retention: int = setting(
        512 << 20, size(64 << 20, 1 << 50), "BYTES",
        "How much of the log is kept at least, so that readers of the feed can be behind.",
    )  # fmt: skip
    map_dir: Path | None = setting(
        None, path, "DIR",
        "Where the maps live that answer reads: best in memory. Default: a directory of the store's own under "
        "/dev/shm, or in the data directory if there is too little room.",
    )  # fmt: skip
    feed_port: int | None = setting(
        None, integer(0, 65535), "PORT",
        "A port of the gateway's own for feed connections, for set-ups in which they cannot be handed over from the "
        "REST port (TLS in the worker). Default: none.",
    )  # fmt: skip
    feed_clients: int = setting(
        50_000, integer(1, 1_000_000), "N", "Feed connections that each gateway serves; further ones get 503."
    )
    feed_clients_per_address: int = setting(
        0, integer(0, 1_000_000), "N",
        "The same from one address; 0: as many as there may be in all. Behind a proxy all clients have its address.",
    )  # fmt: skip
    origins: str = setting(
        "*", _origins, "ORIGINS",
        "Origins whose pages may use the store from a browser, separated by commas; * allows all. Governs REST (CORS) "
        "and WebSocket alike.",
    )  # fmt: skip
    no_hot_path: bool = setting(
        False, boolean, "BOOL",
        "Answer plain reads and writes of one key on the ordinary road, too: slower, and alike but for that.",
    )  # fmt: skip
    only: str | None = setting(
        None, _only, "store",
        "store: supervise the store alone (recovery, segments, snapshots, metrics); shards, gateway and web workers "
        "are started by somebody else.",
    )  # fmt: skip
    grace: int = setting(
        10,
        integer(0, 300),
        "SECONDS",
        "How long requests may still be answered after a stop or a reload was asked for.",
    )
    tokens: Path | None = setting(
        None, path, "FILE",
        "File of tokens and what they grant, written by `kvserver token` or by hand: every request needs one of them. "
        "Changes are taken over within two seconds. Only this user and root may be able to write it, or put another in "
        "its place. Default: none, everybody who can connect may do everything.",
    )  # fmt: skip
    access_log: bool = setting(
        False, boolean, "BOOL",
        "Write a line for each request to standard error, whatever --log-level says: client, method, path, status, "
        "seconds; never the query, since a ticket may stand there, nor a header. It costs a good part of the speed.",
    )  # fmt: skip
    insecure: bool = setting(
        False,
        boolean,
        "BOOL",
        "Listen on an address that others can reach although there are no tokens.",
    )

    def __post_init__(self) -> None:
        if self.on_full == "evict" and self.max_memory is None:
            raise SettingError("--on-full evict needs --max-memory: without a limit nothing makes keys go")
