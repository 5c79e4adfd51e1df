"""The server's settings: `shards.host.settings.ProcessSettings` plus those of `kvserver serve`.

One table: the command line, the environment, the manual and `deploy/kvserver.env` come from it.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path

from kvserver.http.origins import ANY, normal_name, normal_origin
from kvserver.http.proxies import parse_networks
from shards.host.board import MAX_GATEWAYS, MAX_SHARDS
from shards.host.settings import ProcessSettings, SettingError, boolean, choice, integer, path, setting, size

MAX_VALUE_LIMIT = 32 << 20


def _parse_only(text: str) -> str:
    return choice("store")(text)


def _parse_host(text: str) -> str:
    if text == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        raise ValueError("expected an IP address, for instance 127.0.0.1, ::1 or 0.0.0.0") from None


def _parse_origins(text: str) -> str:
    given = [origin.strip() for origin in text.split(",")]
    normal = [origin if origin == ANY else normal_origin(origin.removesuffix("/")) for origin in given]
    if None in normal:
        raise ValueError("expected * or origins such as https://app.example, separated by commas, without a path")
    return ",".join(str(origin) for origin in normal)


def _parse_hosts(text: str) -> str:
    given = [name.strip() for name in text.split(",")]
    normal = [name if name == ANY else normal_name(name) for name in given]
    if None in normal:
        raise ValueError("expected host names such as kv.example.org, separated by commas, without scheme and port")
    return ",".join(str(name) for name in normal)


def _parse_networks(text: str) -> str:
    parse_networks(text)
    return text


_NODE = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_SERVER = re.compile(r"nats://[^\s,@/]+")


def _parse_node(text: str) -> str:
    if not _NODE.fullmatch(text):
        raise ValueError("expected 1 to 32 of the characters a-z, 0-9 and -, and no - at the front")
    return text


def _parse_monitors(text: str) -> str:
    given = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"https?://[^\s,/]+", part) for part in given):
        raise ValueError("expected URLs such as http://10.0.0.1:8222, separated by commas, without a path")
    return ",".join(given)


def _parse_cluster(text: str) -> str:
    """Check the addresses of a cluster, of one of the two forms."""
    given = [part.strip() for part in text.split(",")]
    if all(_SERVER.fullmatch(part) for part in given):
        return ",".join(given)
    names = [part.partition("=")[0] for part in given]
    if not all(_NODE.fullmatch(name) and part[len(name) + 1 :] for name, part in zip(names, given, strict=True)):
        raise ValueError(
            "expected machines such as a=10.0.0.1,b=10.0.0.2,c=10.0.0.3, or servers such as nats://10.0.0.1:4222, "
            "separated by commas"
        )
    if len(set(names)) != len(names):
        raise ValueError("expected each machine once, by a name of its own")
    return ",".join(given)


CORES = len(os.sched_getaffinity(0))
DEFAULT_SHARDS = max(1, CORES // 4)


@dataclass(frozen=True)
class ServerSettings(ProcessSettings):
    """All settings of `kvserver serve`. Raises `SettingError` for a combination that makes no sense."""

    host: str = setting("127.0.0.1", _parse_host, "ADDRESS", "Address on which REST and the feed listen.")
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
        "Port of /metrics; 0 picks a free one and prints it.",
        aliases={"METRICS_PORT": lambda text: text or None},
    )
    metrics_host: str = setting(
        "127.0.0.1",
        _parse_host,
        "ADDRESS",
        "Address on which /metrics listens. On one that other machines can reach, a scraper needs a token with the "
        "grant admin if the server has tokens; without --tokens everybody can read the metrics.",
    )
    shards: int = setting(
        DEFAULT_SHARDS,
        integer(1, MAX_SHARDS),
        "N",
        "Number of shard processes; each owns a part of the keys. It may change at any start. Default: a quarter of "
        "the cores. With --cluster one.",
    )
    workers: int = setting(CORES, integer(1, 64), "N", "Number of web worker processes. Default: the number of cores.")
    gateways: int = setting(1, integer(1, MAX_GATEWAYS // 2), "N", "Number of feed gateway processes.")
    sync: str = setting(
        "always",
        choice("always", "everysec", "os"),
        "MODE",
        "When a write is acknowledged: always: after it is flushed to the disk; everysec: at once, and a failure of "
        "the machine loses at most the last second; os: at once, and a failure of the machine loses what the kernel "
        "has not written. A dying process loses nothing in any mode.",
    )
    max_value: int = setting(
        5_120_000,
        size(1, MAX_VALUE_LIMIT),
        "BYTES",
        "Largest value, and largest request body except for batches; at most 32 MiB.",
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
        "Limit on the bytes of keys and values in all shards together. A write beyond it is refused, or evicts other "
        "keys: see --on-full. The overhead of maps and shards (300 to 450 bytes per key) does not count. Default: "
        "none; growth is then refused only when the map directory, the memory or the disk is full.",
    )
    on_full: str = setting(
        "reject",
        choice("reject", "evict"),
        "MODE",
        "What happens to a write beyond --max-memory: reject: it is refused with 507, and no key is lost; evict: keys "
        "that have not been read or written for long are deleted to make room, as in a cache.",
    )
    wal_retention: int = setting(
        512 << 20,
        size(64 << 20, 1 << 50),
        "BYTES",
        "Bytes of log to keep at least, so that feed readers can catch up.",
    )
    map_dir: Path | None = setting(
        None,
        path,
        "DIR",
        "Directory of the maps that answer reads, preferably in memory. Default: a directory of the store's own under "
        "/dev/shm, or in the data directory if /dev/shm is too small. A directory with other files is refused.",
    )
    clock_reset: bool = setting(
        False,
        boolean,
        "BOOL",
        "For a start after the clock was wrong by more than a minute: items written while the clock was ahead count as "
        "written now, and lifetimes follow the current clock; their remaining time does not change. Has no effect if "
        "the clock was right.",
    )
    feed_port: int | None = setting(
        None,
        integer(0, 65535),
        "PORT",
        "Separate port for feed connections, for setups in which they cannot be handed over from the REST port (TLS in "
        "the worker). Default: none.",
    )
    feed_clients: int = setting(
        50_000,
        integer(1, 1_000_000),
        "N",
        "Feed connections per gateway; further ones get 503. The last eighth is reserved for addresses that have less "
        "than a sixteenth of all.",
    )
    feed_clients_per_address: int = setting(
        0,
        integer(0, 1_000_000),
        "N",
        "Feed connections per gateway from one address; 0: no separate limit. Behind a proxy, all clients have its "
        "address.",
    )
    connections_per_address: int = setting(
        4096,
        integer(0, 1_000_000),
        "N",
        "Connections from one address to each web worker; further ones get 503. 0: no limit. Feed connections count "
        "where they are served. For this and the next three limits, an IPv6 /64 network is one address. Connections of "
        "--trusted-proxies do not count.",
    )
    unfinished_per_address: int = setting(
        1024,
        integer(0, 1_000_000),
        "N",
        "Incomplete requests from one address in each web worker; further ones get 503. 0: no limit.",
    )
    unfinished_bytes_per_address: int = setting(
        160 << 20,
        size(0, 1 << 40),
        "BYTES",
        "Bytes of incomplete requests and unanswered bodies from one address in each web worker; more get 503. All "
        "addresses together may have 256 MiB. 0: only that limit. Otherwise at least 1 MiB more than --max-batch and "
        "--max-value.",
    )
    spare_places: int = setting(
        128,
        integer(0, 1023),
        "N",
        "Requests beyond 1,024 in flight, reserved for addresses and tokens with few of them: once 1,024 are in "
        "flight, an address or token gets 503 if it has half of N divided by the number of workers in one worker. 0: "
        "none. Otherwise at least twice --workers.",
    )
    min_upload_rate: int = setting(
        16 << 10,
        size(1, 1 << 30),
        "BYTES",
        "Minimum bytes per second of a request body, measured over 10 seconds; a slower one gets 408. A request head "
        "always has 10 seconds.",
    )
    trusted_proxies: str | None = setting(
        None,
        _parse_networks,
        "ADDRESSES",
        "Addresses or networks of proxies in front, separated by commas. For requests from them, the client's address "
        "is the last one in X-Forwarded-For that is not a proxy's; limits, access log and feed use it. From other "
        "peers the header is ignored. Default: none.",
    )
    origins: str = setting(
        "*",
        _parse_origins,
        "ORIGINS",
        "Origins whose web pages may use the store from a browser, separated by commas; * allows all. With a list, "
        "every request from other pages is refused with 403: REST, feed and WebSocket.",
    )
    allowed_hosts: str | None = setting(
        None,
        _parse_hosts,
        "NAMES",
        "Host names that requests may use, separated by commas, in addition to localhost and IP addresses; * allows "
        "all. Others get 421: a malicious page may point its own host name to this server. Default: none on a loopback "
        "address without tokens, else all. Behind a proxy, list the names that it passes on.",
    )
    scheduling: str = setting(
        "normal",
        choice("normal", "batch"),
        "MODE",
        "How the kernel schedules web workers: normal: as they were started; batch: by SCHED_BATCH, so they work "
        "longer at a time. That is for a machine that does little else: beside other busy processes, answers take "
        "longer.",
    )
    no_hot_path: bool = setting(
        False,
        boolean,
        "BOOL",
        "Handle requests for one key without the hot path: slower, with the same answers.",
    )
    only: str | None = setting(
        None,
        _parse_only,
        "store",
        "store: run only the supervisor of the store (recovery, segments, snapshots, metrics); shards, gateway and web "
        "workers are started separately.",
    )
    grace: int = setting(
        10,
        integer(0, 300),
        "SECONDS",
        "Seconds in which running requests may finish after a stop or a reload.",
    )
    tokens: Path | None = setting(
        None,
        path,
        "FILE",
        "File with tokens and their grants, written by `kvserver token` or by hand. Every request then needs a token. "
        "Changes take effect within two seconds. Only this user and root may be able to write or replace the file. "
        "Default: none; anyone who can connect may do everything.",
    )
    access_log: bool = setting(
        False,
        boolean,
        "BOOL",
        "Write a line for each request to standard error at any --log-level: client, method, path, status, seconds. "
        "Query and headers are left out, because they may contain a ticket. Slows the server down noticeably.",
    )
    slow_ms: int = setting(
        0,
        integer(0, 3_600_000),
        "MS",
        "Write such a line for each request that took at least so many milliseconds, from its first byte to the end of "
        "its answer; so a slow client makes a slow request, too. 0: for none.",
    )
    node: str | None = setting(
        None,
        _parse_node,
        "NAME",
        "Name of this machine in its --cluster: 1 to 32 of a-z, 0-9 and -. Default: none, this machine is on its own.",
    )
    cluster: str | None = setting(
        None,
        _parse_cluster,
        "ADDRESSES",
        "The machines of the cluster and the addresses of their nats-servers, as a=10.0.0.1,b=10.0.0.2,c=10.0.0.3 (a "
        "port may follow, default 4222): each machine then runs its own. Or the addresses of servers that run already, "
        "as nats://10.0.0.1:4222,nats://10.0.0.2:4222. Needs --node, and implies one shard. Default: no cluster.",
    )
    cluster_secret: Path | None = setting(
        None,
        path,
        "FILE",
        "File with the secret of the cluster, the same on all machines: 32 bytes at least, which `kvserver cluster "
        "secret` makes. What the machines' nats-servers and users know each other by follows from it. Of servers that "
        "run already: NAME:PASSWORD of a user of theirs. Only this user may be able to read it.",
    )
    cluster_monitors: str | None = setting(
        None,
        _parse_monitors,
        "URLS",
        "Where the nats-servers of --cluster, if they run already, answer HTTP, as http://10.0.0.1:8222, separated by "
        "commas: they are asked whether they flush each message to the disk (sync_interval: always), without which a "
        "failure of the power could lose what was confirmed. Default: they are asked through the system account.",
    )
    cluster_tls_cert: Path | None = setting(
        None, path, "FILE", "Certificate of this machine, in PEM, for TLS between the machines of the cluster."
    )
    cluster_tls_key: Path | None = setting(None, path, "FILE", "Its key, in PEM.")
    cluster_tls_ca: Path | None = setting(
        None, path, "FILE", "The authority that signed the certificates of all machines of the cluster, in PEM."
    )
    reads: str = setting(
        "linear",
        choice("linear", "local"),
        "MODE",
        "What a read on a machine of a cluster shows: linear: what no other machine can show otherwise, and 503 where "
        "that is not certain; local: what this machine has, which may be older than what another one has shown.",
    )
    insecure: bool = setting(
        False,
        boolean,
        "BOOL",
        "Allow listening on an address that other machines can reach without tokens.",
    )

    def __post_init__(self) -> None:
        if (self.node is None) != (self.cluster is None):
            given, missing = ("--node", "--cluster") if self.cluster is None else ("--cluster", "--node")
            raise SettingError(f"{given} needs {missing}: give both, or neither")
        if self.cluster is not None:
            self._check_cluster(self.cluster)
        elif self.cluster_secret is not None:
            raise SettingError("--cluster-secret needs --cluster: without one there is nobody to share it with")
        if self.on_full == "evict" and self.max_memory is None:
            raise SettingError("--on-full evict needs --max-memory: without a limit no key is ever evicted")
        least = max(self.max_batch, self.max_value) + (1 << 20)
        if 0 < self.unfinished_bytes_per_address < least:
            raise SettingError(
                f"--unfinished-bytes-per-address is {self.unfinished_bytes_per_address}: the largest request could "
                f"never arrive; expected 0 or at least {least}, 1 MiB more than --max-batch and --max-value"
            )
        if 0 < self.spare_places < 2 * self.workers:
            raise SettingError(
                f"--spare-places is {self.spare_places}: with {self.workers} workers that reserves none for others; "
                f"expected 0 or at least {2 * self.workers}, twice --workers"
            )

    def _check_cluster(self, cluster: str) -> None:
        names = [part.partition("=")[0] for part in cluster.split(",")]
        if "://" not in cluster and self.node not in names:
            raise SettingError(f"--node is {self.node}, but --cluster names {', '.join(names)}: name this machine, too")
        if self.shards == DEFAULT_SHARDS:
            object.__setattr__(self, "shards", 1)
        if self.shards != 1:
            raise SettingError(f"--shards is {self.shards}: a machine of a cluster has one shard, give --shards 1")
