"""Verbs of several calls. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from kvserver.client.core import batches, lists, single
from kvserver.client.core.calls import Await, Script, Sleep
from kvserver.client.core.single import Content
from kvserver.client.core.values import moment_text
from kvserver.client.errors import AnswerTooLarge, KVError, OutcomeUnknown, PreconditionFailed, Result
from kvserver.client.model import DELETE, KEEP, UNSET, Deleted, Entry, Next, Ttl

UPDATE_JITTER_S: Final = 0.02
"""Most seconds between two tries of an update, times the number of tries, up to `LONGEST_JITTER_S`."""
LONGEST_JITTER_S: Final = 0.5


def update(
    prefix: str,
    key: str,
    change: Callable[..., Any],
    json: bool,
    ttl: Ttl | Next | None,
    tries: int,
    idempotent: bool,
) -> Script[Entry | None]:
    """Return the script that reads a key, lets `change` make a new value, and stores that if no other write came first.

    Its result is the entry afterwards.
    """
    attempt = 0
    while True:
        attempt += 1
        entry: Entry | None = yield single.get(prefix, key)
        wanted = yield Await(change, (entry,))
        if wanted is KEEP or (wanted is DELETE and entry is None):
            return entry
        revision = entry.revision if entry else 0
        try:
            if wanted is DELETE:
                if not (yield single.delete(prefix, key, revision)):
                    raise PreconditionFailed("the key is gone")
                return None
            content = _content_of(wanted, json, entry, ttl)
            written = yield single.put(prefix, key, content, revision, idempotent)
        except PreconditionFailed:
            if attempt >= tries:
                raise
            yield Sleep(min(UPDATE_JITTER_S * attempt, LONGEST_JITTER_S))
            continue
        expires = entry.expires if entry and ttl is KEEP else None
        return Entry(key, content.body, written.revision, content.content_type, expires)


def _content_of(wanted: Any, json: bool, entry: Entry | None, ttl: Ttl | Next | None) -> Content:
    value, document = (UNSET, wanted) if json else (wanted, UNSET)
    content_type = entry.content_type if entry and not json else None
    keeps = ttl is KEEP or isinstance(ttl, Next)
    expires = moment_text(entry.expires) if entry and entry.expires and keeps else None
    return Content.of(value, document, content_type, None if isinstance(ttl, Next) else ttl, expires)


def get_many(prefix: str, keys: Iterable[str]) -> Script[dict[str, Entry | None]]:
    """Return the script that reads many keys, in as many batches as it takes. Raises `TypeError` for one text."""
    if isinstance(keys, (str, bytes)):
        raise TypeError("get_many takes keys, like ['a', 'b']; get takes one")
    wanted = list(dict.fromkeys(keys))
    found: dict[str, Entry | None] = {}
    while wanted:
        now, wanted = wanted[: batches.BATCH_OPERATIONS], wanted[batches.BATCH_OPERATIONS :]
        results: list[Result] = yield batches.batch(prefix, [batches.GetOp(key) for key in now])
        left = []
        for key, result in zip(now, results, strict=True):
            if result.error is None:
                found[key] = result.entry
            elif result.status == 404:
                found[key] = None
            elif isinstance(result.error, AnswerTooLarge):
                left.append(key)
            else:
                raise result.error
        if len(left) == len(now):  # the first alone is too large for a batch
            alone = left.pop(0)
            found[alone] = yield single.get(prefix, alone)
        wanted = left + wanted
    return found


def delete_prefix(prefix: str, below: str, dry_run: bool, limit: int | None, all: bool) -> Script[Deleted]:
    """Return the script that deletes all keys below a prefix, in as many requests as it takes."""
    count, cut = 0, None
    while True:
        left = None if limit is None else limit - count
        try:
            part: Deleted = yield lists.delete_prefix(prefix, below, dry_run, left, all, cut)
        except OutcomeUnknown as error:
            cut = _continue_at(error, cut)
            count += _deleted_by(error)
            continue
        count, cut = count + part.count, part.cut
        if part.complete or dry_run or (limit is not None and count >= limit):
            return Deleted(count, part.complete, part.cut)


def _continue_at(error: KVError, cut: int | None) -> int:
    """Return the cut of a delete that broke off, if the server gave one that is new. Raises `error`."""
    told = error.members.get("cut")
    if not isinstance(told, int) or cut is not None:
        raise error
    return told


def _deleted_by(error: KVError) -> int:
    told = error.members.get("deleted")
    return told if isinstance(told, int) else 0
