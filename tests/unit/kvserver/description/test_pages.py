"""The API's description: it is valid, whole, made of what validates; and its pages hold together."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from types import ModuleType
from typing import Any, get_args

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import given
from hypothesis import strategies as st

from kvserver.api import batches, feed_query
from kvserver.api.query import EXPIRY, INTEGER, Parameter, parse
from kvserver.api.steps import run_at_once
from kvserver.description import elements, messages, openapi, pages
from kvserver.gateway.feed.cursors import Reason
from kvserver.gateway.transport.frames import Ending
from kvserver.http import routes
from kvserver.rest import batch, kv, many, memorykv, status
from shards.wire.errors import (
    ERRORS,
    AnswerTooLarge,
    BadRequest,
    Conflict,
    FailedDependency,
    MethodNotAllowed,
    PatchesTooLarge,
)

DOCUMENT = openapi.make_document()
NOT_OF_OPERATIONS = {MethodNotAllowed.code}
"""Told where there is no operation."""
OF_RESULTS = {FailedDependency.code, AnswerTooLarge.code, PatchesTooLarge.code}
"""Told in the results of a batch alone."""
NEVER = {Conflict.code}
"""What others have in common."""


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, described in methods.items():
            yield path, method, described


def inside(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in `value`."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from inside(each)
    elif isinstance(value, list):
        for each in value:
            yield from inside(each)


def resolved(reference: str) -> Any:
    found: Any = DOCUMENT
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return found


def test_it_is_openapi() -> None:
    schemathesis.openapi.from_dict(json.loads(json.dumps(DOCUMENT))).validate()
    assert DOCUMENT["openapi"].startswith("3.1")
    ids = [described["operationId"] for _, _, described in operations()]
    assert len(set(ids)) == len(ids)
    for each in inside(DOCUMENT):
        if "$ref" in each:
            assert resolved(each["$ref"])


def test_every_route_is_described() -> None:
    described = {operation.route for operation in openapi.OPERATIONS}
    assert described == set(routes.LABELS) - {routes.NOWHERE, routes.V1_OTHER}


@pytest.mark.parametrize("module", [batch, kv, many, memorykv, status, feed_query])
def test_every_parameter_is_described(module: ModuleType) -> None:
    for value in vars(module).values():
        if (
            isinstance(value, dict)
            and value is not EXPIRY
            and any(isinstance(row, Parameter) for row in value.values())
        ):
            assert any(operation.parameters is value for operation in openapi.OPERATIONS), value
    for _, _, described in operations():
        for parameter in described.get("parameters", ()):
            assert parameter["description"]


def test_every_error_is_described() -> None:
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    responses = DOCUMENT["components"]["responses"].values()
    assert all(response["content"]["application/problem+json"] == problem for response in responses)
    told = {code for response in responses for code in response[openapi.CODES]}
    assert told | OF_RESULTS | NOT_OF_OPERATIONS | NEVER == set(ERRORS)
    assert set(DOCUMENT["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]) == set(ERRORS)
    for error in ERRORS.values():
        assert error.title and error.hint


def test_every_example_is_valid() -> None:
    seen = 0
    for media in inside(DOCUMENT["paths"]):
        if "example" in media:
            schema = {**media["schema"], "components": DOCUMENT["components"]}
            jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(media["example"])
            seen += 1
    assert seen >= 10


def test_the_words_of_the_feed_are_those_it_uses() -> None:
    """Written down here, for descriptions import nothing of the gateway."""
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["FeedGap"]["properties"]["reason"]["enum"] == list(get_args(Reason))
    assert schemas["FeedClosing"]["properties"]["reason"]["enum"] == list(get_args(Ending))
    message = {"$ref": "#/components/schemas/FeedMessage", "components": DOCUMENT["components"]}
    validator = jsonschema_rs.Draft202012Validator(message, validate_formats=True)
    for example in (*messages.EXAMPLE["messages"], *messages.STREAM):
        validator.validate(example)
    assert not validator.is_valid({"type": "bookmark", "cursor": "x"})


def test_examples_of_batches_are_read() -> None:
    media = DOCUMENT["paths"]["/v1/batch"]["post"]["requestBody"]["content"]["application/json"]
    envelope = run_at_once(batches.JSON.read_envelope(json.dumps(media["example"]).encode()))
    for index, raw in enumerate(envelope.ops):
        batches.JSON.read_operation(index, raw, 1)


@given(st.integers(-(1 << 66), 1 << 66) | st.sampled_from([-(1 << 63), (1 << 63) - 1, 1 << 63, -(1 << 63) - 1]))
def test_what_is_described_of_whole_numbers_is_what_is_read(number: int) -> None:
    table = {parameter.name: parameter for parameter in (many.LIST["limit"], many.DELETE["cut"], kv.POST["incr"])}
    for name, parameter in table.items():
        valid = jsonschema_rs.is_valid(parameter.kind.schema, number)
        try:
            assert parse(f"{name}={number}".encode(), table) == {name: number}
        except BadRequest:
            assert not valid
        else:
            assert valid
    assert INTEGER.schema["format"] == "int64"


# Pages


class Page(HTMLParser):
    """What a page refers to. Fails where elements do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.names: Counter[str] = Counter()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.names[tag] += 1
        for name, value in attrs:
            assert value is not None and not name.startswith("on") and name not in ("src", "style")
            if name == "id":
                self.ids.append(value)
            if name == "href":
                self.links.append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def all_pages() -> dict[str, str]:
    shown = {routes.DOCS: pages.render_overview(DOCUMENT), routes.ERRORS: pages.error_list()}
    return shown | {routes.ERRORS + code: pages.render_error(DOCUMENT, error) for code, error in ERRORS.items()}


def test_pages_hold_together_and_need_nothing_else() -> None:
    read = {path: Page(text) for path, text in all_pages().items()}
    for path, page in read.items():
        assert len(set(page.ids)) == len(page.ids)
        assert page.names["h1"] == page.names["main"] == page.names["title"] == page.names["style"] == 1
        assert page.names["script"] == page.names["link"] == page.names["img"] == 0
        for link in page.links:
            where, _, part = link.partition("#")
            assert where in ("", routes.OPENAPI, *read), link
            assert not part or part in read[where or path].ids, link
    assert not re.search(r"url\(|@import|https?://(?!localhost:8080)", "".join(all_pages().values()))


def test_the_policy_admits_the_style_sheet_of_every_page() -> None:
    for page in all_pages().values():
        (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
        digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert f"style-src 'sha256-{digest}'" in pages.SECURITY_POLICY


def test_the_overview_shows_everything() -> None:
    shown = pages.render_overview(DOCUMENT)
    for _, method, described in operations():
        if method != "head":
            assert elements.render_inline(described["summary"]) in shown
            for parameter in described.get("parameters", ()):
                assert elements.render_inline(parameter["description"]) in shown
    for name in DOCUMENT["components"]["schemas"]:
        assert f'id="body-{name}"' in shown


def test_text_cannot_become_elements() -> None:
    assert "<b>" not in elements.render_text("<b> `<b>`\n\n- <b>") + elements.render_block(
        "<b>", '"<b>'
    ) + elements.link('"', "")
    assert elements.describe_schema({"enum": ["<b>"]}) == "<code>&lt;b&gt;</code>"
