"""The server's settings: `shards.host.settings.ProcessSettings` and what `kvserver serve` adds. One table; the command
line, the environment, the manual and `deploy/kvserver.env` come from it."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from kvserver.http.origins import ANY, normal_name, normal_origin
from kvserver.http.proxies import parse_networks
from shards.host.board import MAX_GATEWAYS, MAX_SHARDS
from shards.host.settings import ProcessSettings, SettingError, boolean, choice, integer, path, setting, size

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
    given = [origin.strip() for origin in text.split(",")]
    normal = [origin if origin == ANY else normal_origin(origin.removesuffix("/")) for origin in given]
    if None in normal:
        raise ValueError("expected * or origins such as https://app.example, separated by commas, without a path")
    return ",".join(str(origin) for origin in normal)


def _hosts(text: str) -> str:
    given = [name.strip() for name in text.split(",")]
    normal = [name if name == ANY else normal_name(name) for name in given]
    if None in normal:
        raise ValueError("expected host names such as kv.example.org, separated by commas, without scheme and port")
    return ",".join(str(name) for name in normal)


def _networks(text: str) -> str:
    parse_networks(text)
    return text


CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class ServerSettings(ProcessSettings):
    """Everything `kvserver serve` can be told."""

    host: str = setting("127.0.0.1", _host, "ADDRESS", "Address REST and the feed listen on.")
    port: int = setting(
        8080,
        integer(0, 65535),
        "PORT",
        "Port of REST and the feed; 0 picks a free one and prints it.",
        aliases={"PORT": lambda text: text or None},
    )
    metrics_port: int = setting(
        3001,
        integer(0, 65535),
        "PORT",
        "Port of /metrics, on 127.0.0.1; 0 picks a free one and prints it.",
        aliases={"METRICS_PORT": lambda text: text or None},
    )
    shards: int = setting(
        max(1, CORES // 4),
        integer(1, MAX_SHARDS),
        "N",
        "Shard processes, each owning a part of the keys. Any number at any start. Default: a quarter of the cores.",
    )
    workers: int = setting(CORES, integer(1, 64), "N", "Web worker processes. Default: the cores.")
    gateways: int = setting(1, integer(1, MAX_GATEWAYS // 2), "N", "Feed gateway processes.")
    sync: str = setting(
        "always",
        choice("always", "everysec", "os"),
        "MODE",
        "When a write is acknowledged: always: after it is flushed to the disk; everysec: at once, at most the last "
        "second is lost if the machine fails; os: at once, what the kernel had not written is lost if the machine "
        "fails. A process that dies loses nothing in any mode.",
    )
    max_value: int = setting(
        5_120_000,
        size(1, MAX_VALUE_LIMIT),
        "BYTES",
        "Largest value, and largest body of a request that is no batch; at most 32 MiB.",
    )
    max_batch: int = setting(
        32 << 20,
        size(1 << 10, 128 << 20),
        "BYTES",
        "Largest body of a batch (POST /v1/batch); at most 128 MiB.",
    )
    max_memory: int | None = setting(
        None,
        size(1 << 10, 1 << 50),
        "BYTES",
        "Most bytes of keys and values in all shards together. What would pass it is refused, or makes other keys go: "
        "see --on-full. What maps and shards need beside that (300 to 450 bytes a key) does not count. Default: none; "
        "then growth is refused only when the map directory, the memory or the disk is full.",
    )
    on_full: str = setting(
        "reject",
        choice("reject", "evict"),
        "MODE",
        "What becomes of a write that would pass --max-memory: reject: it is refused with 507, and nothing is lost; "
        "evict: keys that nobody has read or written for long are deleted for it, as in a cache.",
    )
    wal_retention: int = setting(
        512 << 20,
        size(64 << 20, 1 << 50),
        "BYTES",
        "How much of the log is kept at least, so that readers of the feed can be behind.",
    )
    map_dir: Path | None = setting(
        None,
        path,
        "DIR",
        "Where the maps live that answer reads: best in memory. Default: a directory of the store's own under "
        "/dev/shm, or in the data directory if there is too little room. One that holds other files is refused.",
    )
    clock_reset: bool = setting(
        False,
        boolean,
        "BOOL",
        "For a start after the clock was wrong by more than a minute: what was written under a clock that was ahead "
        "counts as written now, and lifetimes count from the clock as it is; what is left of them stays. Does nothing "
        "if the clock was right.",
    )
    feed_port: int | None = setting(
        None,
        integer(0, 65535),
        "PORT",
        "A port of the gateway's own for feed connections, for set-ups in which they cannot be handed over from the "
        "REST port (TLS in the worker). Default: none.",
    )
    feed_clients: int = setting(
        50_000,
        integer(1, 1_000_000),
        "N",
        "Feed connections that each gateway serves; further ones get 503. The last eighth is for addresses that have "
        "less than a sixteenth of all.",
    )
    feed_clients_per_address: int = setting(
        0,
        integer(0, 1_000_000),
        "N",
        "The same from one address; 0: as many as there may be in all. Behind a proxy all clients have its address.",
    )
    connections_per_address: int = setting(
        4096,
        integer(0, 1_000_000),
        "N",
        "Connections from one address to each web worker; a further one is answered 503. 0: no limit. Feed connections "
        "count where they are served. For this and the next three limits an IPv6 network of 64 bits is one address. "
        "Connections of --trusted-proxies do not count.",
    )
    unfinished_per_address: int = setting(
        1024,
        integer(0, 1_000_000),
        "N",
        "Requests from one address that have not arrived whole, in each web worker; a further one is answered 503. 0: "
        "no limit.",
    )
    unfinished_bytes_per_address: int = setting(
        160 << 20,
        size(0, 1 << 40),
        "BYTES",
        "Bytes of such requests from one address, and of bodies that are not answered yet, in each web worker; more is "
        "answered 503. All addresses together may have 256 MiB. 0: no limit but that. Otherwise at least 1 MiB more "
        "than --max-batch and --max-value.",
    )
    spare_places: int = setting(
        128,
        integer(0, 1023),
        "N",
        "Places beyond the 1,024 requests in flight, for addresses and tokens that have few: once 1,024 are in flight, "
        "an address or token that has half of N divided by the number of workers in one worker is answered 503, others "
        "are not. 0: none. Otherwise at least twice --workers.",
    )
    min_upload_rate: int = setting(
        16 << 10,
        size(1, 1 << 30),
        "BYTES",
        "A body that brings fewer bytes a second, counted over 10 seconds, is answered 408. A head has 10 seconds in "
        "any case.",
    )
    trusted_proxies: str | None = setting(
        None,
        _networks,
        "ADDRESSES",
        "Addresses or networks of proxies in front, separated by commas: of what comes from them, the last address in "
        "X-Forwarded-For that is none of these is the client's, for limits, the access log and the feed. From anybody "
        "else the header means nothing. Default: none.",
    )
    origins: str = setting(
        "*",
        _origins,
        "ORIGINS",
        "Origins whose pages may use the store from a browser, separated by commas; * allows all. With a list, what "
        "comes from pages of others is refused with 403, whatever it is: REST, feed and WebSocket.",
    )
    allowed_hosts: str | None = setting(
        None,
        _hosts,
        "NAMES",
        "Host names under which the server may be asked, separated by commas, beside localhost and addresses; * allows "
        "all. Others get 421: a page may have given its own name this server's address. Default: none on a loopback "
        "address without tokens, else all. Behind a proxy, the names it passes on.",
    )
    no_hot_path: bool = setting(
        False,
        boolean,
        "BOOL",
        "Answer plain reads and writes of one key on the ordinary road, too: slower, and alike but for that.",
    )
    only: str | None = setting(
        None,
        _only,
        "store",
        "store: supervise the store alone (recovery, segments, snapshots, metrics); shards, gateway and web workers "
        "are started by somebody else.",
    )
    grace: int = setting(
        10,
        integer(0, 300),
        "SECONDS",
        "How long requests may still be answered after a stop or a reload was asked for.",
    )
    tokens: Path | None = setting(
        None,
        path,
        "FILE",
        "File of tokens and what they grant, written by `kvserver token` or by hand: every request needs one of them. "
        "Changes are taken over within two seconds. Only this user and root may be able to write it, or put another in "
        "its place. Default: none, everybody who can connect may do everything.",
    )
    access_log: bool = setting(
        False,
        boolean,
        "BOOL",
        "Write a line for each request to standard error, whatever --log-level says: client, method, path, status, "
        "seconds; never the query, since a ticket may stand there, nor a header. It costs a good part of the speed.",
    )
    insecure: bool = setting(
        False,
        boolean,
        "BOOL",
        "Listen on an address that others can reach although there are no tokens.",
    )

    def __post_init__(self) -> None:
        if self.on_full == "evict" and self.max_memory is None:
            raise SettingError("--on-full evict needs --max-memory: without a limit nothing makes keys go")
        least = max(self.max_batch, self.max_value) + (1 << 20)
        if 0 < self.unfinished_bytes_per_address < least:
            raise SettingError(
                f"--unfinished-bytes-per-address is {self.unfinished_bytes_per_address}: the largest request could "
                f"never arrive; expected 0 or at least {least}, 1 MiB more than --max-batch and --max-value"
            )
        if 0 < self.spare_places < 2 * self.workers:
            raise SettingError(
                f"--spare-places is {self.spare_places}: with {self.workers} workers that would keep none for others; "
                f"expected 0 or at least {2 * self.workers}, twice --workers"
            )
