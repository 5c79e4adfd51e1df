"""Schemas of JSON bodies: of batches from the structs that read them, of answers by hand. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from kvserver.access.grants import VERBS
from kvserver.api import batches
from kvserver.api.query import TIME, Schema
from kvserver.rest.server.tickets import Asked
from shards.host.board import ANSWER_CLASSES, DURATION_BOUNDS_S, ShardRow
from shards.wire.errors import ERRORS
from shards.wire.keys import MAX_KEY

_REVISION: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": (1 << 53) - 1}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_BOOLEAN: Final[Schema] = {"type": "boolean"}
_TEXT: Final[Schema] = {"type": "string"}
_KEY: Final[Schema] = {"type": "string", "maxLength": MAX_KEY}
_TIME_OR_NULL: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}


def _enum_of(words: Iterable[str]) -> Schema:
    return {"type": "string", "enum": list(words)}


def ref(name: str) -> Schema:
    """Make a reference to the schema of that name."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(description: str, optional: dict[str, Schema] | None = None, /, **fields: Schema) -> Schema:
    """An object that has all of `fields`, any of `optional`, and nothing else."""
    return {
        "type": "object",
        "description": description,
        "properties": {**fields, **(optional or {})},
        "required": list(fields),
        "additionalProperties": False,
    }


def listed(items: Schema, description: str = "") -> Schema:
    """An array of `items`."""
    return {"type": "array", "items": items} | ({"description": description} if description else {})


def _described(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}


def _counts_of(names: Iterable[str]) -> dict[str, Schema]:
    return dict.fromkeys(names, _COUNT)


_VALUE: Final = {
    "value": _described(_TEXT, "The value, if it is UTF-8."),
    "value_base64": _described({"type": "string", "contentEncoding": "base64"}, "The value, if it is not UTF-8."),
}
_SECONDS: Final[Schema] = {"type": "number", "minimum": 0}
_PROCESS: Final = {"pid": _described(_COUNT, "Its process; only with `admin`.")}
_BUCKETS: Final = len(DURATION_BOUNDS_S) + 1
_ERROR_STATUS: Final[Schema] = {"type": "integer", "minimum": 400, "maximum": 599}

_ANSWERS: Final[dict[str, Schema]] = {
    "Keys": listed(_KEY, "Keys in byte order."),
    "Item": record(
        "A key with what is known of it.",
        _VALUE,
        key=_KEY,
        revision=_REVISION,
        size=_described(_COUNT, "Bytes of the value."),
        content_type=_TEXT,
        created=TIME.schema,
        modified=_described(TIME.schema, "When the value was written."),
        expires=_TIME_OR_NULL,
    ),
    "Page": record(
        "A page of a list.",
        items=listed(ref("Item")),
        prefixes=listed(_TEXT, "What keys that have a delimiter begin with, up to the end of the first."),
        next={
            "type": ["string", "null"],
            "description": "Goes into `after` (with `reverse` into `before`); null: there is no more.",
        },
    ),
    "Count": record("How many items and prefixes there are.", count=_COUNT),
    "Line": {
        "description": "A line of a list: an item, a prefix; at the end `end`, or `error` where the list broke off.",
        "oneOf": [
            ref("Item"),
            record("Keys that have a delimiter.", prefix=_TEXT),
            record("The list is whole.", end=record("What was listed.", items=_COUNT, cursor=_TEXT)),
            record(
                "The list broke off after `next`.",
                error=record("Why.", status=_ERROR_STATUS, code=_TEXT, title=_TEXT, detail=_TEXT),
                next={"type": ["string", "null"]},
            ),
        ],
    },
    "Deleted": record(
        "What a delete of a prefix did.",
        deleted=_COUNT,
        complete=_described({"type": "boolean"}, "False: there may be more. Repeat the request with `cut`."),
        cut=_described(_REVISION, "The revision of the cut: newer values were spared."),
    ),
    "Polled": record(
        "The answer to a poll.",
        cursor=_described(_TEXT, "Pass it as `since` to the next poll."),
        more=_described({"type": "boolean"}, "More messages are ready for the next poll."),
        messages=listed(ref("FeedMessage"), "In order."),
    ),
    "Traffic": record(
        "Answered requests since the server started, of all workers and gateways.",
        requests=record("By class of status; 4xx includes those whose client left.", **_counts_of(ANSWER_CLASSES)),
        unavailable=_described(_COUNT, "Those of 5xx with status 503: nothing was done."),
        outcome_unknown=_described(_COUNT, "Those of 5xx with status 504."),
        durations=record(
            "How long they took, from the arrival of a request to the end of its answer; of feeds until they begin.",
            bounds_s=_described(
                {**listed({"type": "number"}), "const": list(DURATION_BOUNDS_S)}, "Upper bounds of buckets, in seconds."
            ),
            counts=_described(
                {**listed(_COUNT), "minItems": _BUCKETS, "maxItems": _BUCKETS},
                "Requests in each bucket: they took at most its bound, and more than the one before. The last bucket "
                "has what took longer than all bounds.",
            ),
            total_s=_described(_SECONDS, "The sum of all durations."),
        ),
    ),
    "Health": record("The server is healthy.", status=_enum_of(["live", "ready"])),
    "Status": record(
        "What is running.",
        version=_TEXT,
        store=_described(_TEXT, "Identity of the store."),
        epoch=_described(_TEXT, "Name of the history."),
        revision=_described(_REVISION, "The latest change."),
        oldest=_described(_REVISION, "The oldest change that the log still has."),
        sync=_enum_of(["always", "everysec", "os", "memory"]),
        uptime_s=_SECONDS,
        clock=record(
            "The clock.",
            time=TIME.schema,
            ahead_s=_described({"type": "number"}, "How far it is ahead of the time that lifetimes count by."),
        ),
        supervisor=record("The process that watches the others.", _PROCESS),
        shards=listed(
            record(
                "A process that owns a part of the keys.",
                _PROCESS,
                index=_COUNT,
                state=_enum_of(["starting", "up", "stopping", "down", "given_up"]),
                keys=_COUNT,
                bytes=_COUNT,
                operations=record(
                    "What it has done, by kind. `refused`: what the store could not do, or a condition forbade.",
                    **_counts_of(ShardRow.KINDS.values()),
                ),
                groups=_described(_COUNT, "Groups of operations that it logged together."),
                group_operations=_described(_COUNT, "Operations in all of them."),
                flush_s=_described(_SECONDS, "How long it has waited for flushes of the log."),
                queue=_described(_COUNT, "Peak number of operations that waited, recently."),
            )
        ),
        workers=listed(
            record(
                "A process that answers requests.",
                _PROCESS,
                scheduling=_described(
                    _enum_of(["normal", "batch", "unknown"]), "By what the kernel schedules it: `batch` is SCHED_BATCH."
                ),
                in_flight=_COUNT,
                connections=_COUNT,
            ),
        ),
        gateways=listed(record("A process that serves the feed.", _PROCESS, clients=_COUNT)),
        memory=record(
            "Keys and values in memory.",
            used=_described(_COUNT, "Their bytes."),
            limit=_described({"type": ["integer", "null"], "minimum": 1}, "Their limit; null: there is none."),
            on_full=_enum_of(["reject", "evict"]),
            evicted=_described(_COUNT, "Keys that were evicted."),
        ),
        log=record(
            "The log of all changes.",
            bytes=_COUNT,
            watermark=_described(_REVISION, "Everything up to this change is durable and visible."),
            unapplied_bytes=_COUNT,
            full={"type": "boolean"},
            broken={"type": "boolean"},
            restarts=_COUNT,
        ),
        snapshot=record("The latest snapshot.", replay_from=_COUNT, bytes_since=_COUNT),
        traffic=ref("Traffic"),
        feed=record(
            "The feed since the server started, of all gateways.",
            events=_described(_COUNT, "Changes shown; each gateway counts its own."),
            deliveries=_described(_COUNT, "Changes written to clients."),
            gaps=_described(_COUNT, "Clients that got a `gap` message."),
            lag=_described(_COUNT, "Changes that the slowest gateway has not shown yet."),
        ),
        cluster=_described({"oneOf": [{"type": "null"}, ref("ClusterStatus")]}, "Null: there is no cluster."),
    ),
    "ClusterStatus": record(
        "What a machine of a cluster knows of it.",
        node=_described(_TEXT, "Name of this machine."),
        reads=_enum_of(["linear", "local"]),
        member=_described(_BOOLEAN, "Whether the others wait for this machine before they show a change."),
        current=_described(_BOOLEAN, "Whether this machine may answer reads now; if not, they are 503 `not_current`."),
        stopped=_described({"type": ["string", "null"]}, "Why this machine has stopped for good; null: it has not."),
        nodes=listed(
            record(
                "A machine of the cluster.",
                name=_TEXT,
                member=_described(_BOOLEAN, "Whether it is a member, as far as this machine knows."),
                reachable=_described(_BOOLEAN, "Whether this machine has heard of it in the last two seconds."),
            )
        ),
        order=record(
            "The order of messages that all machines follow.",
            sequence=_described(_COUNT, "The last message that this machine has decided."),
            last=_described(_COUNT, "The last message of the order, as far as is known."),
            lag=_described(_COUNT, "Messages in between."),
            stable=_described(_COUNT, "The last message that every member has applied."),
            resent=_described(_COUNT, "Messages that this machine has sent again since its shard was started."),
        ),
        clock_difference_s=_described(
            _SECONDS, "The largest difference of another machine's clock from this one's. Above 0.5, see to NTP."
        ),
    ),
}


def _problem_schema() -> Schema:
    """RFC 9457, with what single errors add."""
    return record(
        "What went wrong (RFC 9457).",
        {
            "index": _described(_COUNT, "Of a malformed operation in its batch."),
            "failed": _described(_COUNT, "Index of the operation that failed an atomic batch."),
            "results": listed(ref("BatchResult")),
            "deleted": _described(_COUNT, "Keys that are known to be deleted."),
            "cut": _described(_REVISION, "Repeat the delete with this."),
            "limit": _described(_COUNT, "Of the memory, in bytes."),
            "used": _described(_COUNT, "Bytes of it that are taken."),
            "needed": _described(_COUNT, "Bytes that the write would add."),
        },
        type=_described({"type": "string", "format": "uri-reference"}, "A page that explains this error."),
        title=_TEXT,
        status=_ERROR_STATUS,
        code=_enum_of(sorted(ERRORS)),
        detail=_described(_TEXT, "What was wrong with this request; may be empty."),
        hint=_described(_TEXT, "How to do it right."),
        request_id=_described(_TEXT, "Names the request in the server's log; also in X-Request-Id."),
    )


# Batches

_ONE_OF: Final = {
    "BatchPutInJson": ("value", "json", "value_base64"),
    "BatchPutInMessagePack": ("value", "json"),
    "BatchTouch": ("ttl", "expires", "persist"),
}
"""Structs of which give exactly one of these fields; beyond what they can say themselves."""
_ALIKE: Final = (batches.BatchGet, batches.BatchDelete, batches.BatchTouch, batches.BatchIncr, batches.BatchPatch)


def _batch_schemas() -> dict[str, Schema]:
    structs = [*_ALIKE, batches.BatchPutInJson, batches.BatchPutInMessagePack, batches.Envelope]
    _, found = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    schemas: dict[str, Schema] = {
        name: {**schema, "title": name.removeprefix("Batch")} for name, schema in found.items()
    }
    for name, fields in _ONE_OF.items():
        schemas[name]["oneOf"] = [{"required": [field]} for field in fields]
    for name in ("BatchPutInJson", "BatchPutInMessagePack"):
        schemas[name]["not"] = {"required": ["ttl", "expires"]}
    envelope = schemas.pop("Envelope")
    schemas["Batch"] = _envelope_schema(envelope, batches.BatchPutInJson)
    schemas["BatchInMessagePack"] = _envelope_schema(envelope, batches.BatchPutInMessagePack)
    return schemas


def _envelope_schema(envelope: Schema, put: type[msgspec.Struct]) -> Schema:
    made: dict[str, Any] = copy.deepcopy(envelope)
    tags = {str(struct.__struct_config__.tag): struct.__name__ for struct in (*_ALIKE, put)}
    mapping = {tag: ref(name)["$ref"] for tag, name in tags.items()}
    made["properties"]["ops"]["items"] = {
        "oneOf": [ref(name) for name in tags.values()],
        "discriminator": {"propertyName": "op", "mapping": mapping},
    }
    made.pop("title", None)
    return made


_RESULT: Final = record(
    "The result of an operation; for a GET, PATCH or increment also the value.",
    {
        "revision": _described(_REVISION, "Of the change; of what is there, where a condition failed."),
        "content_type": _TEXT,
        "expires": _TIME_OR_NULL,
        **_VALUE,
        "code": _enum_of(sorted(ERRORS)),
        "detail": _TEXT,
    },
    status={"type": "integer", "enum": [200, 201, 204, *sorted({error.status for error in ERRORS.values()})]},
)


def make_body_schemas() -> dict[str, Schema]:
    """Return all schemas, by name."""
    (ticket,), ticket_parts = msgspec.json.schema_components([Asked], ref_template="#/components/schemas/{name}")
    results = record("The results, in the order of the operations.", results=listed(ref("BatchResult")))
    return {
        "Problem": _problem_schema(),
        **_ANSWERS,
        **_batch_schemas(),
        "BatchResult": _RESULT,
        "BatchAnswer": results,
        "TicketRequest": ticket,
        **ticket_parts,
        "Ticket": record("A ticket.", ticket=_TEXT, expires=TIME.schema),
        "WhoAmI": record(
            "The bearer of a token.",
            {"expires": _described(TIME.schema, "Of a ticket for `kv`: when it ends.")},
            name=_described({"type": ["string", "null"]}, "Name of the token; null: the server has no tokens."),
            grants=listed(
                record(
                    "What may be done with keys that start with a prefix.",
                    prefix=_described(_TEXT, "Empty: all keys."),
                    allow=listed(_enum_of(VERBS)),
                )
            ),
        ),
    }
