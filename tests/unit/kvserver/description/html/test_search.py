"""What can be found: every part of the manual, every operation, every error, each at an address that there is."""

from __future__ import annotations

from kvserver.description.html.manual import address
from kvserver.description.html.reference import render_overview
from kvserver.description.html.search import list_records
from kvserver.http import routes
from shards.wire.errors import ERRORS
from tests.unit.kvserver.description.document import DOCUMENT, operations
from tests.unit.kvserver.description.html.pages import CHAPTERS, MANUAL, Page

RECORDS = {record["at"]: record for record in list_records(MANUAL, DOCUMENT)}


def test_everything_can_be_found_once() -> None:
    assert len(RECORDS) == len(list_records(MANUAL, DOCUMENT))
    parts = sum(len(MANUAL.read_chapter(name).sections) for name in CHAPTERS)
    described = sum(method != "head" for _, method, _ in operations())
    assert len(RECORDS) == parts + described + len(ERRORS)


def test_every_address_leads_there() -> None:
    pages = {address(name): Page(MANUAL.render(name)) for name in CHAPTERS}
    pages[routes.REFERENCE] = Page(render_overview(DOCUMENT))
    for at in RECORDS:
        where, _, part = at.partition("#")
        if not where.startswith(routes.ERRORS):
            assert not part or part in pages[where].ids, at


def test_texts_have_no_markup() -> None:
    conditional = RECORDS["/docs/keys#conditional-writes"]
    assert (conditional["page"], conditional["heading"]) == ("Keys and values", "Conditional writes")
    assert conditional["text"].startswith("The ETag of a value is its revision")
    assert "curl" in conditional["text"]
    put = RECORDS["/docs/reference#put_v1_kv_key"]
    assert (put["page"], put["heading"]) == ("Reference", "PUT /v1/kv/{key}") and "ttl:" in put["text"]
    assert RECORDS["/docs/errors/not_found"]["text"].startswith("404 No such key.")
