"""The description as HTML pages: all operations, all errors, each error. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

from kvserver.api.query import Schema
from kvserver.description.html.elements import (
    code,
    describe_schema,
    link,
    render_block,
    render_example,
    render_inline,
    render_table,
    render_text,
)
from kvserver.description.html.frame import render_navigation, render_page, render_section
from kvserver.description.openapi import CODES
from kvserver.http.routes import ERRORS, OPENAPI, REFERENCE, SDK
from shards.wire.errors import ERRORS as ERROR_CLASSES
from shards.wire.errors import KVError

Document = dict[str, Any]


class ShownOperation(NamedTuple):
    """An operation as the pages show it."""

    path: str
    methods: tuple[str, ...]
    """In capitals; the first is described, a HEAD may follow."""
    described: dict[str, Any]

    def heading(self, methods: int = 2) -> str:
        """Render path and methods, at most that many."""
        return f'<span class="method">{", ".join(self.methods[:methods])} </span>{code(self.path)}'

    @property
    def anchor(self) -> str:
        """What stands behind `#`."""
        return str(self.described["operationId"])


def list_operations(document: Document) -> Iterator[ShownOperation]:
    """Yield the operations of `document` in its order, a HEAD with its GET."""
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            if method == "get" and "head" in methods:
                yield ShownOperation(path, ("GET", "HEAD"), described)
            elif method != "head":
                yield ShownOperation(path, (method.upper(),), described)


def render_overview(document: Document) -> str:
    """Render the whole description."""
    operations = list(list_operations(document))
    schemas = document["components"]["schemas"]
    navigation, sections = [], [render_section("About", render_text(document["info"]["description"]))]
    for tag in document["tags"]:
        tagged = [operation for operation in operations if tag["name"] in operation.described["tags"]]
        navigation.append((tag["name"], [link(f"#{operation.anchor}", operation.heading(1)) for operation in tagged]))
        shown = "".join(_render_operation(document, operation) for operation in tagged)
        sections.append(render_section(tag["name"], render_text(tag["description"]) + shown))
    navigation.append(("Bodies", [link(f"#body-{name}", name) for name in schemas]))
    sections.append(render_section("Bodies", "".join(_render_body(name, schema) for name, schema in schemas.items())))
    links = (link(OPENAPI, "OpenAPI 3.1"), link(ERRORS, "errors"), link(SDK, "client libraries"))
    about = " · ".join((f"Version {escape(document['info']['version'])}", *links))
    return render_page(REFERENCE, "Reference", about, render_navigation(navigation), "".join(sections))


def error_list() -> str:
    """Render the list of all errors."""
    rows = (
        (link(ERRORS + error.code, code(error.code)), str(error.status), render_inline(error.title))
        for error in sorted(ERROR_CLASSES.values(), key=lambda error: (error.status, error.code))
    )
    shown = render_table("Errors", ("Code", "Status", "What it says"), rows)
    return render_page(ERRORS, "Errors", "By status, then by code.", "", f"<section>{shown}</section>")


def render_error(document: Document, error_class: type[KVError]) -> str:
    """Render the page of one error."""
    status = HTTPStatus(error_class.status)
    problem = {
        "type": ERRORS + error_class.code,
        "title": error_class.title,
        "status": status,
        "code": error_class.code,
        "detail": error_class.title,
        "hint": error_class.hint,
        "request_id": "4f1c0a5be0c9d3a7",
    }
    answered = [
        f"<li>{link(f'{REFERENCE}#{operation.anchor}', operation.heading())}</li>"
        for operation in list_operations(document)
        if error_class.code in _list_codes(document, operation)
    ]
    told = f"HTTP/1.1 {status} {status.phrase}\nContent-Type: application/problem+json\n\n{_render_json(problem)}"
    parts = [
        f'<p class="summary">{render_inline(error_class.title)}.</p>',
        f"<h2>What to do</h2><p>{render_inline(error_class.hint)}</p>",
        "<h2>How it looks</h2>",
        render_block(told, "Answer"),
        "<p><code>detail</code> says what it was this time. Whoever runs the server finds more in its log, by the "
        "<code>request_id</code>.</p>",
        f"<h2>Where it comes from</h2><ul>{''.join(answered)}</ul>" if answered else "",
    ]
    about = f"{status} {status.phrase} · {link(ERRORS, 'all errors')} · {link(REFERENCE, 'reference')}"
    return render_page(ERRORS, error_class.code, about, "", f"<section>{''.join(parts)}</section>")


def _list_codes(document: Document, operation: ShownOperation) -> set[str]:
    return {each for _, response in _resolve_responses(document, operation) for each in _codes_of(response)}


def _codes_of(response: dict[str, Any]) -> list[str]:
    """Return the codes of the errors that a response may have."""
    return list(response.get(CODES, ()))


def _resolve_responses(document: Document, operation: ShownOperation) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield status and response, with references resolved."""
    shared = document["components"]["responses"]
    for status, response in operation.described["responses"].items():
        name = response.get("$ref", "").rpartition("/")[2]
        yield status, shared[name] if name else response


# Parts of the overview


def _render_operation(document: Document, operation: ShownOperation) -> str:
    described = operation.described
    parts = [
        f'<h3 id="{operation.anchor}">{operation.heading()}</h3>',
        f'<p class="summary">{render_inline(described["summary"])}</p>',
        render_text(described.get("description", "")),
        *(render_example(sample["source"], "sh", "Example") for sample in described.get("x-codeSamples", ())),
        _render_parameters(described.get("parameters", ())),
        _request_body(described.get("requestBody")),
        _render_answers(document, operation),
    ]
    return f"<article>{''.join(parts)}</article>"


def _render_parameters(parameters: Iterable[dict[str, Any]]) -> str:
    rows = [
        (
            code(each["name"]),
            each["in"],
            f'<span class="type">{describe_schema(each["schema"])}</span>',
            render_inline(each.get("description", "")),
        )
        for each in parameters
    ]
    if not rows:
        return ""
    return "<h4>Parameters</h4>" + render_table("Parameters", ("Name", "In", "Type", "Meaning"), rows)


def _request_body(body: dict[str, Any] | None) -> str:
    return "" if body is None else "<h4>Body</h4>" + _render_content(body["content"])


def _render_content(content: dict[str, Any]) -> str:
    lines = [f"{code(name)}: {describe_schema(media['schema'])}" for name, media in content.items()]
    examples = [
        render_block(_show_example(media["example"]), "Example body")
        for media in content.values()
        if "example" in media
    ]
    return f"<p>{', '.join(lines)}</p>" + "".join(examples)


def _render_answers(document: Document, operation: ShownOperation) -> str:
    rows = []
    for status, response in _resolve_responses(document, operation):
        if int(status) < 400:
            told = render_text(response["description"]) + (
                _render_content(response["content"]) if "content" in response else ""
            )
        else:
            told = ", ".join(link(ERRORS + each, code(each)) for each in _codes_of(response))
        headers = ", ".join(code(name) for name in response.get("headers", ()))
        rows.append((escape(status), told, headers))
    return "<h4>Answers</h4>" + render_table("Answers", ("Status", "Meaning", "Headers"), rows)


def _render_body(name: str, schema: Schema) -> str:
    shown = f'<h3 id="body-{name}">{name}</h3>{render_text(schema.get("description", ""))}'
    if "properties" in schema:
        return shown + _render_properties(name, schema)
    return shown + f'<p class="type">{describe_schema(schema)}</p>'


def _render_properties(name: str, schema: Schema) -> str:
    required = schema.get("required", ())
    rows = [
        (
            code(field) + ("" if field in required else " <span class='type'>optional</span>"),
            f'<span class="type">{describe_schema(each)}</span>',
            render_inline(each.get("description", "")),
        )
        for field, each in schema["properties"].items()
    ]
    return render_table(f"Members of {name}", ("Member", "Type", "Meaning"), rows)


def _render_json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _show_example(example: Any) -> str:
    """Return an example as it is sent."""
    return example if isinstance(example, str) else _render_json(example)
