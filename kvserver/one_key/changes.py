"""PUT, PATCH, POST and DELETE of one key: from what is asked to an operation for the shard.

The head of a request gives an operation without its body (`CHANGES`), so a request that its head alone refuses is
refused before its body is sent. Then come the body, the condition, and the mark of an Idempotency-Key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from kvserver.api import conditions, query
from kvserver.api.scan import duplicate_names
from kvserver.http import responses
from kvserver.http.responses import NoMergePatch
from kvserver.http.value_headers import media_type, read_stored_type
from kvserver.one_key.asked import POST, Asked
from shards.maps.layout import Item
from shards.wire.errors import BadRequest, PreconditionFailed
from shards.wire.json_text import strip_byte_order_mark
from shards.wire.protocol import Condition, Delete, Incr, Patch, Put, Touch

Change = Put | Patch | Incr | Touch | Delete

NEVER: Final = Condition(if_match=[])
"""A condition that never holds."""
_CHOICES: Final = ("incr", "ttl", "expires", "persist")
assert {*_CHOICES} < POST.keys()


class NoChange(BadRequest):
    """A POST without a change: its sender may have tried to store a value."""

    hint = "To store a value use PUT. POST adds to a counter (?incr=1) or changes when the key expires (?ttl=60)."


def read_put(asked: Asked) -> Put:
    """Return the put without its value. Raises `KVError`."""
    parameters = asked.read_parameters()
    asked.grants.require("write", asked.key)
    ttl_ms, expires_ms, want_previous = 0, 0, False
    if parameters:
        want_previous = "return" in parameters
        if want_previous:
            asked.grants.require("read", asked.key)
        ttl_ms, expires_ms = query.read_expiry(parameters)
    asked.refuse_coded()
    asked.refuse_partial()
    return Put(asked.key, b"", read_stored_type(asked.read_content_type()), ttl_ms, expires_ms, want_previous)


def read_patch(asked: Asked) -> Patch:
    """Return the patch without its JSON. Raises `KVError`."""
    asked.read_parameters()
    asked.grants.require("write", asked.key)
    asked.refuse_coded()
    kind = media_type(asked.read_content_type())
    if kind.encode() != responses.MERGE_PATCH:
        raise NoMergePatch(f"{kind or 'no type'}: only {responses.MERGE_PATCH.decode()} is known")
    return Patch(asked.key, b"")


def read_post(asked: Asked) -> Incr | Touch:
    """Return the increment, or the change of the expiry. Raises `KVError`."""
    parameters = asked.read_parameters()
    asked.grants.require("write", asked.key)
    if not parameters:
        raise NoChange(f"a POST needs one of the query parameters {', '.join(_CHOICES)}; to store a value use PUT")
    if len([name for name in _CHOICES if name in parameters]) != 1:
        raise BadRequest(f"give exactly one of the query parameters {', '.join(_CHOICES)}")
    ttl_if_new = parameters.get("ttl_if_new", 0)
    if "incr" in parameters:
        return Incr(asked.key, parameters["incr"], ttl_if_new)
    if ttl_if_new:
        raise BadRequest("the query parameter ttl_if_new belongs to incr")
    return Touch(asked.key, *query.read_expiry(parameters))


def read_delete(asked: Asked) -> Delete:
    """Return the delete. Raises `KVError`."""
    asked.read_parameters()
    asked.grants.require("write", asked.key)
    return Delete(asked.key)


CHANGES: Final[dict[str, Callable[[Asked], Change]]] = {
    "PUT": read_put,
    "PATCH": read_patch,
    "POST": read_post,
    "DELETE": read_delete,
}
"""From a method to what its requests ask for: the operation, without body and condition."""


def may_answer_value(change: Change) -> bool:
    """Whether the answer to `change` may have a value that is large."""
    return type(change) is Patch or (type(change) is Put and change.want_previous)


def set_body(change: Put | Patch, body: bytes) -> None:
    """Give `change` the body of its request. Raises `BadRequest` if an object in the JSON of a patch has a name twice.

    In a patch above `duplicate_names.LARGE` bytes that takes long to find, and is left to the caller.
    """
    if isinstance(change, Put):
        change.value = body
        return
    change.patch = strip_byte_order_mark(body)
    if len(change.patch) <= duplicate_names.LARGE:
        duplicate_names.refuse_in_json(change.patch)


def fingerprinted_body(change: Change) -> tuple[str, bytes]:
    """Return the type and the content of the body of `change`, as far as they decide what it does."""
    if isinstance(change, Put):
        return change.content_type, change.value
    if isinstance(change, Patch):
        return responses.MERGE_PATCH.decode(), change.patch
    return "", b""


def find_condition(asked: Asked, is_marked: bool, describe: Callable[[bytes], Item | None]) -> Condition | None:
    """Return the condition for the shard to check before it writes.

    Args:
        asked: has the conditions of the request.
        is_marked: the request has an Idempotency-Key.
        describe: finds what the key holds now. Shards compare revisions, not dates: it is called for a date.

    Raises `BadRequest`, `PreconditionFailed`, and what `describe` does.
    """
    wanted = conditions.read_conditions(asked.header)
    if wanted.unmodified_since is None:
        return wanted.for_shard()
    # What is unmodified now must not change until the write is decided. An absent key has no date, so the write
    # proceeds, but not over a value that is created in the meantime.
    item = describe(asked.key)
    if item is None:
        return msgspec.structs.replace(wanted, if_none_match="*").for_shard()
    try:
        wanted.check(item.revision, item.modified_ms // 1000)
    except PreconditionFailed:
        if is_marked:
            return NEVER  # it may hold no more because of this very write: the shard knows whether it was done
        raise
    return msgspec.structs.replace(wanted, if_match=[conditions.Tag(item.revision)]).for_shard()
