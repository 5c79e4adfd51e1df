"""What Schemathesis cannot know: rules between parameters, which no schema tells, and how MessagePack is written.

Only requests that are meant to be right are touched.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import schemathesis
from schemathesis.generation import GenerationMode

LATER = "2100-01-01T00:00:00Z"
LARGEST = (1 << 64) - 1
MESSAGE_PACK = ("application/vnd.msgpack", "application/msgpack")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    rule = RULES.get((case.operation.method.upper(), case.operation.path))
    if rule is not None and case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE:
        rule(case)


def one_change(case: Any) -> None:
    """Exactly one of these; `ttl_if_new` belongs to one of them."""
    query = case.query
    keep_one(case, ("incr", "ttl", "expires", "persist"))
    if not query.keys() & {"incr", "ttl", "expires", "persist"}:
        query["incr"] = "1"
    if "incr" not in query:
        query.pop("ttl_if_new", None)
    if "expires" in query:
        query["expires"] = LATER


def one_expiry(case: Any) -> None:
    """At most one of these, and not in the past."""
    keep_one(case, ("ttl", "expires"))
    if "expires" in case.query:
        case.query["expires"] = LATER


def keep_one(case: Any, names: Iterable[str]) -> None:
    """Of parameters with these names, what the case is about, else another one each time."""
    given = [name for name in names if name in case.query]
    if given:
        subject = getattr(case.meta.phase.data, "parameter", None)
        kept = subject if subject in given else given[len(str(case.query)) % len(given)]
        for name in set(given) - {kept}:
            del case.query[name]


def deletable(case: Any) -> None:
    """Everything is meant, or a prefix; and a cut that the history has reached."""
    if not case.query.get("prefix"):
        case.query["all"] = "true"
    if "cut" in case.query:
        case.query["cut"] = "0"


def batch(case: Any) -> None:
    """Keys of one slot where that is needed, nothing in the past; 1.0 is a whole number for JSON Schema alone."""
    body = case.body
    if not isinstance(body, dict):
        return
    body = whole(copy.deepcopy(body))
    for operation in body.get("ops", ()):
        if body.get("atomic"):
            operation["key"] = "{tag}" + operation["key"][:100]
        if "expires" in operation:
            operation["expires"] = LATER
    case.body = body


def whole(value: Any) -> Any:
    """`value` with whole numbers where floats are whole."""
    if isinstance(value, dict):
        return {name: whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return [whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


RULES: dict[tuple[str, str], Callable[[Any], None]] = {
    ("POST", "/v1/kv/{key}"): one_change,
    ("PUT", "/v1/kv/{key}"): one_expiry,
    ("DELETE", "/v1/kv"): deletable,
    ("POST", "/v1/batch"): batch,
}


@schemathesis.serializer(*MESSAGE_PACK)
def to_message_pack(context: Any, value: Any) -> bytes:
    """Values are of type bin there."""
    value = copy.deepcopy(value)
    operations = value.get("ops") if isinstance(value, dict) else None
    for operation in operations if isinstance(operations, list) else ():
        if isinstance(operation, dict) and operation.get("op") == "put" and isinstance(operation.get("value"), str):
            operation["value"] = operation["value"].encode()
    return msgspec.msgpack.encode(bounded(value))


def bounded(value: Any) -> Any:
    """`value` with its whole numbers as large as MessagePack has them, which is more than any field takes."""
    if isinstance(value, dict):
        return {name: bounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [bounded(each) for each in value]
    return LARGEST if type(value) is int and not -(1 << 63) <= value <= LARGEST else value


@schemathesis.deserializer(*MESSAGE_PACK)
def from_message_pack(context: Any, response: Any) -> Any:
    """As the schema of the JSON form has it."""
    return msgspec.json.decode(msgspec.json.encode(msgspec.msgpack.decode(response.content)))


@schemathesis.deserializer(
    "application/octet-stream", "application/yaml", "text/yaml", "application/x-yaml", "text/x-yaml"
)
def as_it_is(context: Any, response: Any) -> str:
    """Values of any type may hold anything."""
    return str(response.content.decode("latin-1"))
