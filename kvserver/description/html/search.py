"""What the search of the pages searches: every part of the manual, every operation, every error. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypedDict

from kvserver.description.html.manual import START, Manual, address
from kvserver.description.html.reference import list_operations
from kvserver.http.routes import ERRORS, REFERENCE
from shards.wire.errors import ERRORS as ERROR_CLASSES


class Record(TypedDict):
    """A place that can be found: its address, the page that it is on, its heading, its text."""

    at: str
    page: str
    heading: str
    text: str


def list_records(manual: Manual, document: dict[str, Any]) -> list[Record]:
    """Return all places, of the manual in its order, then of the description `document`, then of the errors."""
    return [*_of_manual(manual), *_of_reference(document), *_of_errors()]


def _of_manual(manual: Manual) -> Iterator[Record]:
    for name in (START, *(entry.name for entry in manual.entries)):
        chapter = manual.read_chapter(name)
        for section in chapter.sections:
            anchor = f"#{section.anchor}" if section.anchor else ""
            yield Record(at=address(name) + anchor, page=chapter.title, heading=section.heading, text=section.text)


def _of_reference(document: dict[str, Any]) -> Iterator[Record]:
    for operation in list_operations(document):
        described = operation.described
        parts = [described["summary"] + ".", described.get("description", "")]
        parts += [f"{each['name']}: {each.get('description', '')}" for each in described.get("parameters", ())]
        heading = f"{operation.methods[0]} {operation.path}"
        text = " ".join(" ".join(parts).replace("`", "").split())
        yield Record(at=f"{REFERENCE}#{operation.anchor}", page="Reference", heading=heading, text=text)


def _of_errors() -> Iterator[Record]:
    for code, error in ERROR_CLASSES.items():
        text = f"{error.status} {error.title}. {error.hint}".replace("`", "")
        yield Record(at=ERRORS + code, page="Errors", heading=code, text=text)
