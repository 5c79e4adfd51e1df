"""What JetStream says of a stream, what must be true of it, and its messages in their sequence. Pure.

The stream is `KV`. A node publishes to `kv.log.<node>`; what the stream has taken is republished to `kv.out.<node>`.
Beside it, `kv.tell.<node>` is from one node to all, and `kv.ask.<to>.<from>` from one to another.
"""

from __future__ import annotations

import contextlib
import datetime
import zlib
from collections.abc import Mapping
from typing import Final

import msgspec

from shards.order.order import WHAT_HELPS, Identity, Message, NotDurable, OrderError, OrderLost, OrderTrimmed

NAME: Final = "KV"
LOG, OUT, TELL, ASK = "kv.log", "kv.out", "kv.tell", "kv.ask"
"""The beginnings of the subjects."""
INFO: Final = f"$JS.API.STREAM.INFO.{NAME}"
CREATE: Final = f"$JS.API.STREAM.CREATE.{NAME}"
DELETE: Final = f"$JS.API.STREAM.DELETE.{NAME}"
PURGE: Final = f"$JS.API.STREAM.PURGE.{NAME}"
DIRECT: Final = f"$JS.API.DIRECT.GET.{NAME}"
MAX_BYTES: Final = 8 << 30
"""Of the messages that a new stream keeps; older ones are dropped."""

MOST_KEPT: Final = 1024
"""Messages behind a gap that are kept; others are fetched once more."""
MOST_KEPT_BYTES: Final = 32 << 20
MOST_REMEMBERED: Final = 4096
"""Messages of which it is remembered what they were: an order that says otherwise later is another one."""

_NOT_FOUND = 10059  # err_code of a stream that is not there
_SECOND_NS = 1_000_000_000
_UNIX_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class _Republish(msgspec.Struct):
    src: str = ""
    dest: str = ""


class _Config(msgspec.Struct):
    storage: str = ""
    retention: str = "limits"
    num_replicas: int = 1
    max_age: int = 0
    max_msgs: int = -1
    max_msgs_per_subject: int = -1
    allow_direct: bool = False
    persist_mode: str = "default"
    republish: _Republish = msgspec.field(default_factory=_Republish)
    subjects: list[str] = []


class _State(msgspec.Struct):
    first_seq: int = 0
    last_seq: int = 0


class _Failure(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Replica(msgspec.Struct):
    name: str = ""


class _Cluster(msgspec.Struct):
    leader: str = ""
    replicas: list[_Replica] = []


class _Info(msgspec.Struct):
    created: str = ""
    config: _Config = msgspec.field(default_factory=_Config)
    state: _State = msgspec.field(default_factory=_State)
    cluster: _Cluster = msgspec.field(default_factory=_Cluster)
    error: _Failure | None = None


class _Jsz(msgspec.Struct):
    config: dict[str, object] | None = None
    disabled: bool = False


class _Server(msgspec.Struct):
    name: str = ""


class _JszReply(msgspec.Struct):
    server: _Server = msgspec.field(default_factory=_Server)
    data: _Jsz = msgspec.field(default_factory=_Jsz)


class EngineError(Exception):
    """The engine answers with an error, or with what cannot be read; it may be right a moment later."""


class NoStream(EngineError):
    """The engine says that there is no such stream."""


class StreamFacts:
    """What the engine says of the stream.

    Attributes:
        identity: which it is.
        first, last: the sequences of its oldest and its newest message.
        servers: the names of the servers that hold it; empty: the engine is one server alone.
    """

    def __init__(self, info: _Info) -> None:
        self._config = info.config
        self.identity = Identity(NAME, read_time_ns(info.created))
        self.last = info.state.last_seq
        self.first = info.state.first_seq or self.last + 1  # 0 in a new one
        named = [info.cluster.leader, *(replica.name for replica in info.cluster.replicas)]
        self.servers = frozenset(name for name in named if name)

    def check_config(self) -> None:
        """Check that the stream keeps what it takes, and shows it. Raises `NotDurable` and `OrderError`."""
        config = self._config
        if config.storage != "file" or config.persist_mode not in ("", "default"):
            raise NotDurable(
                f"the stream {NAME} has storage {config.storage!r} and persist_mode {config.persist_mode!r}; "
                "it must be made with storage file and the default persist_mode"
            )
        subjects = (f"{LOG}.>", f"{OUT}.>")
        limits = (config.max_age, config.max_msgs, config.max_msgs_per_subject)
        if (
            config.subjects != [subjects[0]]
            or (config.republish.src, config.republish.dest) != subjects
            or not config.allow_direct
            or config.retention != "limits"
            or any(limit > 0 for limit in limits)
        ):
            raise OrderError(
                f"the stream {NAME} is not configured as `kvserver cluster init` does: subject {subjects[0]} alone, "
                f"republished to {subjects[1]}, direct gets, and no limit but that of its bytes"
            )

    def check_place(self, after: int, known: Identity | None) -> None:
        """Check that one who has got the messages up to `after`, of `known`, can go on.

        A negative `after`: it needs none of them. Raises `OrderLost` and `OrderTrimmed`.
        """
        if known is not None and known != self.identity:
            raise OrderLost(
                f"the stream {NAME} is not the one that this machine has followed, but was made anew; if that one is "
                f"lost, {WHAT_HELPS}"
            )
        if self.last < after:
            raise OrderLost(
                f"the stream {NAME} ends at message {self.last}, but this machine has got message {after} from it: the "
                f"engine has lost the end; {WHAT_HELPS}"
            )
        if after >= 0 and self.first > after + 1:
            raise OrderTrimmed(after, self.first)


def new_stream(replicas: int, max_bytes: int = MAX_BYTES, first: int = 1) -> bytes:
    """Make the request that creates the stream, whose first message has the sequence `first`."""
    return msgspec.json.encode(
        {
            "name": NAME,
            "subjects": [f"{LOG}.>"],
            "storage": "file",
            "retention": "limits",
            "discard": "old",
            "max_bytes": max_bytes,
            **({} if first == 1 else {"first_seq": first}),
            "num_replicas": replicas,
            "duplicate_window": _SECOND_NS // 10,  # the smallest: sessions find duplicates
            "allow_direct": True,
            "republish": {"src": f"{LOG}.>", "dest": f"{OUT}.>"},
        }
    )


def read_info(reply: bytes) -> StreamFacts:
    """Read the answer to `INFO` or `CREATE`. Raises `NoStream` and `EngineError`."""
    try:
        info = msgspec.json.decode(reply, type=_Info)
        if info.error and info.error.err_code == _NOT_FOUND:
            raise NoStream(f"the engine has no stream {NAME}")
        if info.error:
            raise EngineError(info.error.description)
        if info.cluster.replicas and not info.cluster.leader:  # this one is of a server that may be behind the others
            raise EngineError(f"the servers that hold the stream {NAME} have no leader at the moment")
        return StreamFacts(info)
    except (msgspec.MsgspecError, ValueError) as error:
        raise EngineError(f"the engine's answer about {NAME} cannot be read: {error}") from None


def check_flushing(told: Mapping[str, object], servers: frozenset[str]) -> None:
    """Check that all `servers` flush each message before they confirm it, by how they say that JetStream is set.

    Args:
        told: by server, `sync_always` of its JetStream.
        servers: names that must be among them; empty: whichever did answer.

    Raises `NotDurable`.
    """
    lax = sorted(name for name, always in told.items() if always is not True)
    if lax:
        raise NotDurable(
            f"{', '.join(lax)} would lose messages with the power: set `sync_interval: always` in its jetstream {{ }}"
        )
    silent = sorted(servers - told.keys())
    if silent or not told:
        raise NotDurable(
            f"it is not known whether {', '.join(silent) or 'the engine'} flushes each message: its JetStream does not "
            "run yet, or it is not asked; name the monitoring ports (http://HOST:8222) of all its servers"
        )


def read_flushing(reply: bytes) -> dict[str, object]:
    """Read what a server of the system account says of its JetStream, by its name; empty: nothing."""
    with contextlib.suppress(msgspec.MsgspecError):
        read = msgspec.json.decode(reply, type=_JszReply)
        if read.server.name:
            return _flushing_of(read.server.name, read.data)
    return {}


def read_flushing_of(name: str, reply: bytes) -> dict[str, object]:
    """Read what the server `name` says at /jsz; empty: nothing.

    Not at /varz: a server that is asked there before its JetStream runs leaves out, for ever, how that is set.
    """
    with contextlib.suppress(msgspec.MsgspecError):
        return _flushing_of(name, msgspec.json.decode(reply, type=_Jsz))
    return {}


def _flushing_of(name: str, jsz: _Jsz) -> dict[str, object]:
    """What it says, unless its JetStream does not run."""
    return {} if jsz.disabled or jsz.config is None else {name: jsz.config.get("sync_always")}


def read_message(headers: Mapping[str, str] | None, payload: bytes) -> Message | None:
    """Read a message that was republished or fetched; None: it is something else."""
    try:
        if not headers:
            return None
        return Message(
            int(headers["Nats-Sequence"]), read_time_ns(headers["Nats-Time-Stamp"]) // 1_000_000, bytes(payload)
        )
    except (KeyError, ValueError):
        return None


def is_refusal(headers: Mapping[str, str] | None, payload: bytes) -> bool:
    """Whether the answer to a publish says that the message was not taken: nobody was there, or the stream refused."""
    if headers and headers.get("Status") == "503":
        return True
    try:
        return msgspec.json.decode(payload, type=_Info).error is not None
    except msgspec.MsgspecError:
        return False


def read_time_ns(text: str) -> int:
    """Read a time of the engine, `2026-11-29T13:58:33.339778232Z`, as Unix time in nanoseconds. Raises ValueError."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    moment = datetime.datetime.fromisoformat(whole + "+00:00") - _UNIX_EPOCH
    return (moment.days * 86_400 + moment.seconds) * _SECOND_NS + int((fraction + "0" * 9)[:9])


class Follower:
    """The place in an order that has been reached.

    Args:
        after: the sequence of the last message that is there already.

    Attributes:
        last: the sequence of the last message without a gap.
        target: the highest sequence that is known to exist.
    """

    def __init__(self, after: int) -> None:
        self.last = self.target = after
        self._kept: dict[int, Message] = {}
        self._kept_bytes = 0
        self._remembered: dict[int, tuple[int, int]] = {}  # stamp and checksum, by sequence

    @property
    def is_behind(self) -> bool:
        """Whether messages exist that have not come."""
        return self.target > self.last

    def see(self, sequence: int) -> None:
        """Note that message `sequence` exists."""
        self.target = max(self.target, sequence)

    def add(self, message: Message) -> list[Message]:
        """Take a message that has come; return those that are now next, in their sequence.

        Raises `OrderLost` if there was another one in its place before.
        """
        self.see(message.sequence)
        remembered = self._remembered.get(message.sequence)
        if remembered and remembered != _mark(message):
            raise OrderLost(
                f"message {message.sequence} of the order is another one than before: the engine has lost its end and "
                f"gone on; {WHAT_HELPS}"
            )
        if message.sequence != self.last + 1:
            self._keep(message)
            return []
        ready = [message]
        while self._kept and (following := self._kept.pop(message.sequence + len(ready), None)) is not None:
            self._kept_bytes -= len(following.payload)
            ready.append(following)
        self.last += len(ready)
        for taken in ready:
            self._remember(taken)
        return ready

    def _remember(self, message: Message) -> None:
        self._remembered[message.sequence] = _mark(message)
        if len(self._remembered) > MOST_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    def _keep(self, message: Message) -> None:
        if message.sequence <= self.last or message.sequence in self._kept:
            return
        size = len(message.payload)
        if len(self._kept) < MOST_KEPT and self._kept_bytes + size <= MOST_KEPT_BYTES:
            self._kept[message.sequence] = message
            self._kept_bytes += size

    def next_missing(self) -> tuple[int, int] | None:
        """Return the first and the last sequence of the first gap; None: nothing is missing."""
        if not self.is_behind:
            return None
        return self.last + 1, min(self._kept, default=self.target + 1) - 1


def _mark(message: Message) -> tuple[int, int]:
    return message.time_ms, zlib.crc32(message.payload)
