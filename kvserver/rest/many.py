"""`/v1/kv`: lists in pages or as one stream, counts, and deletes of everything with a prefix."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final, NamedTuple

import msgspec
from falcon.asgi import Request, Response

from kvserver.access.cuts import Cuts
from kvserver.access.grants import Grants
from kvserver.api import query
from kvserver.api.listing import ListRange, Row, Walk
from kvserver.api.query import FLAG, KEY, Parameter, table, whole_number
from kvserver.http.scope import GRANTS, QUOTA
from kvserver.one_key.answers import Answer
from kvserver.rest import bodies
from kvserver.rest.pages import ListedItem, describe_item, encode_page
from kvserver.rest.values import answer_body
from kvserver.store.client import StoreClient
from kvserver.store.maps import PAGE_KEYS
from kvserver.web.context import WorkerContext
from kvserver.web.limits.load import LARGE_ANSWER
from shards.host.board import Board
from shards.maps.layout import Item
from shards.maps.reader import PAGE_BYTES
from shards.wire.errors import BadRequest, Forbidden, InvalidToken, KVError, OutcomeUnknown, Unavailable

JSON: Final = "application/json"
LINES: Final = "application/x-ndjson"
MOST_DELIMITERS: Final = 16
"""Of a list: each is looked for in every key."""
DELETE_S: Final = 5.0
"""Seconds after which a delete answers that it is not complete."""

LIST: Final = table(
    Parameter("prefix", KEY, "Only keys that begin with this."),
    Parameter("after", KEY, "Only keys after this one, whatever the direction of the list."),
    Parameter("before", KEY, "Only keys before this one."),
    Parameter("limit", whole_number(1, PAGE_KEYS), "Most items and prefixes on a page. Default: 100."),
    Parameter("reverse", FLAG, "From the last key to the first. Continue with `before`, not `after`."),
    Parameter("values", FLAG, "Send values too, at most 1 MiB in all, but at least one."),
    Parameter(
        "delimiter",
        KEY,
        "Keys that have this after the prefix are one line in `prefixes`, as in a directory. May be given up to "
        f"{MOST_DELIMITERS} times: keys are folded at whichever ends first.",
        MOST_DELIMITERS,
    ),
    Parameter("count", FLAG, "Answer only how many items and prefixes there are, whatever the limit."),
)
DELETE: Final = table(
    Parameter("prefix", KEY, "Keys that begin with this."),
    Parameter("dry_run", FLAG, "Delete nothing, answer what would be."),
    Parameter("limit", whole_number(1, (1 << 63) - 1), "Delete at most so many keys."),
    Parameter("all", FLAG, "Needed without a prefix: delete everything."),
    Parameter("cut", whole_number(0, (1 << 53) - 1), "Spare values newer than this revision; by default the latest."),
)
_CURSOR: Final = "kv-cursor"
_LIMIT: Final = 100
_SMALL_PAGE: Final = 100
"""Most rows of a page of the hot path."""
_SMALL_STEPS: Final = 2 * _SMALL_PAGE
"""Keys that it looks at: expired ones are not rows."""
_PORTION_BYTES: Final = 256 << 10

_encoder = msgspec.json.Encoder()


class ForeignCut(Forbidden):
    """A cut that no answer disclosed to its sender: trying cuts would disclose revisions that it may not read."""

    hint = "Begin the delete again without `cut`, or use a token that grants `read` on the prefix."


class SmallListRoad:
    """Makes small pages of lists for the hot path. Everything else is left to `Many`, also refusals."""

    def __init__(self, store: StoreClient) -> None:
        self._store = store

    def take(self, query: bytes, accept: str, grants: Grants) -> Answer | None:
        """Return the answer; None, with nothing done, if the list has to take the ordinary path."""
        try:
            asked = read_list(query, accept, grants)
            if asked.lines or asked.counts or asked.limit > _SMALL_PAGE:
                return None
            cursor = format_cursor(self._store.board)
            walk = Walk[Item](asked.wanted, asked.limit, LARGE_ANSWER)
            self._store.maps.advance_walk(walk, values=asked.values, steps=_SMALL_STEPS)
        except KVError:
            return None
        if self._store.reading is not None and not self._store.reading.may_show():
            return None
        # A walk that stopped for the bytes of its values has fewer rows than it may; one for its steps is not full.
        is_whole = walk.done or (walk.full and len(walk.rows) == asked.limit)
        if not is_whole or walk.bytes_read >= LARGE_ANSWER:
            return None
        headers, body = encode_page(walk, asked.given)
        if len(body) >= LARGE_ANSWER:
            return None
        report_list(self._store, asked.wanted)
        return Answer(200, [(_CURSOR, cursor), ("content-type", JSON), *headers], body, JSON)


class Many:
    """`/v1/kv`"""

    def __init__(self, store: StoreClient, context: WorkerContext) -> None:
        self._store, self._context, self._board = store, context, context.board
        self._cuts = Cuts(context.board)

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 with a page of the list, all of it as lines, or how many rows it has."""
        asked = read_list(req.scope["query_string"], req.get_header("Accept") or "", req.scope[GRANTS])
        cursor, membership = format_cursor(self._board), self._store.membership
        resp.set_header(_CURSOR, cursor)
        report_list(self._store, asked.wanted)
        if asked.lines:
            await self._stream_lines(req, resp, asked.wanted, asked.values, cursor)
            return
        resp.content_type = JSON
        if asked.counts:
            body = _encoder.encode({"count": await self._count_rows(asked.wanted)})
        else:
            body = await self._make_page(resp, asked)
            if len(body) >= LARGE_ANSWER:
                self._context.load.check_answer_budget(req.scope[QUOTA])
        await self._store.settle_all(membership)
        await answer_body(req, resp, body, JSON)

    on_head = on_get

    async def on_delete(self, req: Request, resp: Response) -> None:
        """200 with how many keys were deleted, and whether that is all of them."""
        given = query.parse(req.scope["query_string"], DELETE)
        prefix, end = given.get("prefix", b""), self._board.last_revision()
        if not prefix and not given.get("all"):
            raise BadRequest("an empty prefix deletes everything: confirm it with all=true")
        grants: Grants = req.scope[GRANTS]
        grants.require_all("write", prefix)
        dry_run, cut = given.get("dry_run", False), given.get("cut", end)
        if dry_run:
            grants.require_all("read", prefix)
        elif "cut" in given:
            self._require_cut(grants, prefix, cut)
        await bodies.refuse_any(req)
        if cut > end and self._store.reading is not None:  # another machine may have told it
            await self._store.reading.reach(str(cut))
            end = cut
        if cut > end:
            raise BadRequest("query parameter 'cut': the history has not reached this revision")
        if not grants.may_all("read", prefix):
            self._cuts.disclose(grants, prefix, cut)
        work = self._count_deletable if dry_run else self._delete_in_time
        deleted, complete = await work(prefix, cut, given.get("limit", 1 << 63))
        resp.content_type = JSON
        resp.data = _encoder.encode({"deleted": deleted, "complete": complete, "cut": cut})

    def _require_cut(self, grants: Grants, prefix: bytes, cut: int) -> None:
        """Raise `ForeignCut` unless the client may read, or an answer disclosed this cut to its token."""
        if not grants.may_all("read", prefix) and not self._cuts.was_disclosed(grants, prefix, cut):
            raise ForeignCut(f"{cut} is not the cut of a delete of this prefix that this token began")

    # Lists

    async def _make_page(self, resp: Response, asked: AskedList) -> bytes:
        walk = Walk[Item](asked.wanted, asked.limit, PAGE_BYTES)
        while True:
            self._store.maps.advance_walk(walk, values=asked.values)
            if walk.done or walk.full:
                break
            await asyncio.sleep(0)
        headers, body = encode_page(walk, asked.given)
        resp.set_headers(headers)
        return body

    async def _count_rows(self, wanted: ListRange) -> int:
        count = 0
        if not wanted.delimiters:
            for part in wanted.parts:
                async for portion in self._store.maps.count_keys(part, wanted.after, wanted.before):
                    count += portion
            return count
        walk = Walk[Item](wanted, PAGE_KEYS, PAGE_BYTES)
        while not walk.done:
            self._store.maps.advance_walk(walk)
            count += len(walk.take_rows())
            await asyncio.sleep(0)
        return count

    async def _stream_lines(self, req: Request, resp: Response, wanted: ListRange, values: bool, cursor: str) -> None:
        resp.content_type = LINES
        walk = Walk[Item](wanted, PAGE_KEYS, _PORTION_BYTES)
        self._store.maps.advance_walk(walk, values=values)  # a failure at once can still set the status
        await self._store.settle_all()
        if req.method == "GET":
            resp.stream = self._make_lines(walk, values, cursor, req.scope[GRANTS])

    async def _make_lines(self, walk: Walk[Item], values: bool, cursor: str, grants: Grants) -> AsyncIterator[bytes]:
        items, last = 0, None
        try:
            while True:
                rows = walk.take_rows()
                if rows:
                    yield _encoder.encode_lines([_row_as_line(row, values) for row in rows])
                    items += sum(item is not None for _, item in rows)
                    last = rows[-1][0].decode()
                if walk.done:
                    break
                await asyncio.sleep(0)
                if self._context.tokens.current_grants(grants) != grants:  # its client takes its time
                    raise InvalidToken("what the token grants has changed")
                self._store.maps.advance_walk(walk, values=values)
                await self._store.settle_all()
        except Exception as error:
            shown = error if isinstance(error, KVError) else KVError()
            why = {"status": shown.status, "code": shown.code, "title": shown.title, "detail": shown.detail}
            yield _encoder.encode_lines([{"error": why, "next": last}])
            raise
        yield _encoder.encode_lines([{"end": {"items": items, "cursor": cursor}}])

    # Deletes

    async def _delete_in_time(self, prefix: bytes, cut: int, limit: int) -> tuple[int, bool]:
        deleted, complete = 0, False
        until = asyncio.get_running_loop().time() + DELETE_S
        try:
            async with aclosing(self._store.delete_range(prefix, cut, limit)) as steps:
                async for count, is_last in steps:
                    deleted, complete = deleted + count, is_last
                    if asyncio.get_running_loop().time() >= until:
                        break
            if deleted == limit:  # the shards did not look for more
                _, complete = await self._count_deletable(prefix, cut, 0)
        except KVError as error:
            if isinstance(error, Unavailable) and not deleted:
                raise
            lost = OutcomeUnknown(str(error))
            lost.members = {"deleted": deleted, "cut": cut}
            raise lost from error
        return deleted, complete

    async def _count_deletable(self, prefix: bytes, cut: int, limit: int) -> tuple[int, bool]:
        count, membership = 0, self._store.membership
        until = asyncio.get_running_loop().time() + DELETE_S
        async with aclosing(self._store.maps.count_keys(prefix, cut=cut)) as portions:
            async for portion in portions:
                count += portion
                if count > limit or asyncio.get_running_loop().time() >= until:
                    count, complete = min(count, limit), False
                    break
            else:
                complete = True
        await self._store.settle_all(membership)
        return count, complete


class AskedList(NamedTuple):
    """What a GET asks for.

    Attributes:
        given: its parameters.
        wanted: the rows.
        lines: whether they are streamed as lines.
    """

    given: dict[str, Any]
    wanted: ListRange
    lines: bool

    @property
    def limit(self) -> int:
        """The most rows of a page."""
        limit: int = self.given.get("limit", _LIMIT)
        return limit

    @property
    def values(self) -> bool:
        """Whether values are sent, too."""
        return bool(self.given.get("values"))

    @property
    def counts(self) -> bool:
        """Whether the answer is only how many rows there are."""
        return bool(self.given.get("count"))


def read_list(query_string: bytes, accept: str, grants: Grants) -> AskedList:
    """Read what a client of these rights asks for. Raises `BadRequest`, `Forbidden`."""
    given = query.parse(query_string, LIST)
    prefix = given.get("prefix", b"")
    parts = grants.prefixes_within("read", prefix)
    if not parts:
        grants.require_all("read", prefix)
    wanted = ListRange(
        prefix,
        given.get("after") or None,
        given.get("before") or None,
        given.get("reverse", False),
        tuple(filter(None, given.get("delimiter", ()))),
        parts,
    )
    lines = not given.get("count") and _wants_lines(accept)
    if lines and "limit" in given:
        raise BadRequest(f"query parameter 'limit': not with {LINES}, which is the whole range")
    return AskedList(given, wanted, lines)


def format_cursor(board: Board) -> str:
    """Return the place in the history whose changes a list made from now on certainly shows."""
    return f"{board.facts.epoch}.{board.watermark()[1]}"


def report_list(store: StoreClient, wanted: ListRange) -> None:
    """Report a list to `/wal`."""
    store.report_activity("list_prefix" if wanted.prefix else "list", wanted.prefix)


def _row_as_line(row: Row[Item], values: bool) -> ListedItem | dict[str, str]:
    name, item = row
    return {"prefix": name.decode()} if item is None else describe_item(name, item, values)


def _wants_lines(accept: str) -> bool:
    """Whether `Accept` names `LINES` with a higher quality than JSON, or the same if it does not name JSON."""
    accept = accept.lower()
    if LINES not in accept:
        return False
    liked: dict[str, float] = {}
    for part in accept.split(","):
        name, *parameters = (text.strip() for text in part.split(";"))
        quality = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        try:
            liked[name] = float(quality)
        except ValueError:
            liked[name] = 0.0
    wanted = liked.get(LINES, 0.0)
    json = liked.get(JSON, liked.get("application/*", liked.get("*/*", 0.0)))
    return wanted > json or (wanted == json > 0.0 and JSON not in liked)
