"""Atomic batches, built operation by operation: `Atomic` for threads, `AsyncAtomic` for tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from kvserver.client.core.batches import DeleteOp, GetOp, IncrOp, Op, PatchOp, PutOp, TouchOp
from kvserver.client.errors import Result
from kvserver.client.model import UNSET, Expires, Ttl, Unset, Value

Self = TypeVar("Self", bound="AtomicOperations")


class AtomicOperations:
    """Operations that are done together or not at all.

    Their keys need a common {tag}, which alone decides where a key is. Every method adds an operation and returns the
    builder.
    """

    def __init__(self) -> None:
        self._ops: list[Op] = []

    def check(self: Self, key: str, revision: int) -> Self:
        """Do it all only if the key has this revision; 0: only if there is no such key."""
        return self._add(GetOp(key, revision))

    def get(self: Self, key: str) -> Self:
        """Read a key. One that is absent fails nothing."""
        return self._add(GetOp(key))

    def put(
        self: Self,
        key: str,
        value: Value | Unset = UNSET,
        *,
        json: object = UNSET,
        content_type: str | None = None,
        ttl: Ttl | None = None,
        expires: Expires | None = None,
        if_revision: int | None = None,
    ) -> Self:
        """Store a value."""
        return self._add(PutOp(key, value, json, content_type, ttl, expires, if_revision))

    def patch(self: Self, key: str, merge: object, *, if_revision: int | None = None) -> Self:
        """Merge a JSON merge patch into a value."""
        return self._add(PatchOp(key, merge, if_revision))

    def incr(
        self: Self, key: str, by: int = 1, *, ttl_if_new: Ttl | None = None, if_revision: int | None = None
    ) -> Self:
        """Add to a whole number; an absent key counts as 0."""
        return self._add(IncrOp(key, by, ttl_if_new, if_revision))

    def touch(
        self: Self,
        key: str,
        *,
        ttl: Ttl | None = None,
        expires: Expires | None = None,
        persist: bool = False,
        if_revision: int | None = None,
    ) -> Self:
        """Change the expiry of a key alone."""
        return self._add(TouchOp(key, ttl, expires, persist, if_revision))

    def delete(self: Self, key: str, *, if_revision: int | None = None) -> Self:
        """Delete a key. One that is absent fails nothing."""
        return self._add(DeleteOp(key, if_revision))

    def _add(self: Self, op: Op) -> Self:
        self._ops.append(op)
        return self


class Atomic(AtomicOperations):
    """Operations that are done together or not at all, by `commit`."""

    def __init__(self, send: Callable[[list[Op]], list[Result]]) -> None:
        super().__init__()
        self._send = send

    def commit(self) -> list[Result]:
        """Do it all, and return the results in order.

        Raises `BatchFailed` (nothing was done; `.failed` says which operation failed, `.results` why), and `CrossSlot`
        before anything is sent if the keys have no common {tag}.
        """
        return self._send(self._ops)


class AsyncAtomic(AtomicOperations):
    """Operations that are done together or not at all, by `commit`."""

    def __init__(self, send: Callable[[list[Op]], Awaitable[list[Result]]]) -> None:
        super().__init__()
        self._send = send

    async def commit(self) -> list[Result]:
        """Do it all, and return the results in order.

        Raises `BatchFailed` (nothing was done; `.failed` says which operation failed, `.results` why), and `CrossSlot`
        before anything is sent if the keys have no common {tag}.
        """
        return await self._send(self._ops)
