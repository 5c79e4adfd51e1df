"""The description as HTML pages that need nothing else: no script, no other host, one style sheet inside. Pure, but
for the style sheet, which is read from the package."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Iterator
from html import escape
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from kvserver.api.query import Schema
from kvserver.description.elements import block, code, inline, link, table, text, words
from kvserver.description.openapi import CODES
from kvserver.http.routes import DOCS, ERRORS, OPENAPI
from shards.wire.errors import ERRORS as ERROR_CLASSES
from shards.wire.errors import KVError

Document = dict[str, Any]

_STYLE: Final = Path(__file__).with_name("style.css").read_text("utf-8")
_DIGEST: Final = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
SECURITY_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of the pages: they get their style sheet and nothing else."""


class _Operation(NamedTuple):
    path: str
    methods: tuple[str, ...]
    """In capitals; the first is described, a HEAD may follow."""
    described: dict[str, Any]

    def name(self, methods: int = 2) -> str:
        """As HTML, with its first so many methods."""
        return f'<span class="method">{", ".join(self.methods[:methods])} </span>{code(self.path)}'

    @property
    def anchor(self) -> str:
        return str(self.described["operationId"])


def _operations(document: Document) -> Iterator[_Operation]:
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            if method == "get" and "head" in methods:
                yield _Operation(path, ("GET", "HEAD"), described)
            elif method != "head":
                yield _Operation(path, (method.upper(),), described)


def overview(document: Document) -> str:
    """The whole description."""
    operations = list(_operations(document))
    schemas = document["components"]["schemas"]
    navigation, sections = [], [_section("About", text(document["info"]["description"]))]
    for tag in document["tags"]:
        tagged = [operation for operation in operations if tag["name"] in operation.described["tags"]]
        navigation.append((tag["name"], [link(f"#{operation.anchor}", operation.name(1)) for operation in tagged]))
        shown = "".join(_operation(document, operation) for operation in tagged)
        sections.append(_section(tag["name"], text(tag["description"]) + shown))
    navigation.append(("Bodies", [link(f"#body-{name}", name) for name in schemas]))
    sections.append(_section("Bodies", "".join(_body(name, schema) for name, schema in schemas.items())))
    about = f"Version {escape(document['info']['version'])} · {link(OPENAPI, 'OpenAPI 3.1')} · {link(ERRORS, 'errors')}"
    return _page("kvserver API", about, _navigation(navigation), "".join(sections))


def error_list() -> str:
    """All errors."""
    rows = (
        (link(ERRORS + error.code, code(error.code)), str(error.status), inline(error.title))
        for error in sorted(ERROR_CLASSES.values(), key=lambda error: (error.status, error.code))
    )
    shown = table("Errors", ("Code", "Status", "What it says"), rows)
    return _page("Errors", link(DOCS, "kvserver API"), "", f"<section>{shown}</section>")


def error(document: Document, error_class: type[KVError]) -> str:
    """One error."""
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
        f"<li>{link(f'{DOCS}#{operation.anchor}', operation.name())}</li>"
        for operation in _operations(document)
        if error_class.code in _codes(document, operation)
    ]
    told = f"HTTP/1.1 {status} {status.phrase}\nContent-Type: application/problem+json\n\n{_json(problem)}"
    parts = [
        f'<p class="summary">{inline(error_class.title)}.</p>',
        f"<h2>What to do</h2><p>{inline(error_class.hint)}</p>",
        "<h2>How it is told</h2>",
        block(told, "Answer"),
        "<p><code>detail</code> says what it was this time. Whoever runs the server finds more in its log, by the "
        "<code>request_id</code>.</p>",
        f"<h2>Where it comes from</h2><ul>{''.join(answered)}</ul>" if answered else "",
    ]
    about = f"{status} {status.phrase} · {link(ERRORS, 'all errors')} · {link(DOCS, 'kvserver API')}"
    return _page(error_class.code, about, "", f"<section>{''.join(parts)}</section>")


def _codes(document: Document, operation: _Operation) -> set[str]:
    return {each for _, response in _responses(document, operation) for each in _codes_of(response)}


def _codes_of(response: dict[str, Any]) -> list[str]:
    """The errors that an answer may tell."""
    return list(response.get(CODES, ()))


def _responses(document: Document, operation: _Operation) -> Iterator[tuple[str, dict[str, Any]]]:
    """Status and answer, references followed."""
    shared = document["components"]["responses"]
    for status, response in operation.described["responses"].items():
        name = response.get("$ref", "").rpartition("/")[2]
        yield status, shared[name] if name else response


# Parts of the overview


def _operation(document: Document, operation: _Operation) -> str:
    described = operation.described
    parts = [
        f'<h3 id="{operation.anchor}">{operation.name()}</h3>',
        f'<p class="summary">{inline(described["summary"])}</p>',
        text(described.get("description", "")),
        *(block(sample["source"], "Example") for sample in described.get("x-codeSamples", ())),
        _parameters(described.get("parameters", ())),
        _request_body(described.get("requestBody")),
        _answers(document, operation),
    ]
    return f"<article>{''.join(parts)}</article>"


def _parameters(parameters: Iterable[dict[str, Any]]) -> str:
    rows = [
        (
            code(each["name"]),
            each["in"],
            f'<span class="type">{words(each["schema"])}</span>',
            inline(each.get("description", "")),
        )
        for each in parameters
    ]
    if not rows:
        return ""
    return "<h4>Parameters</h4>" + table("Parameters", ("Name", "In", "Type", "Meaning"), rows)


def _request_body(body: dict[str, Any] | None) -> str:
    return "" if body is None else "<h4>Body</h4>" + _content(body["content"])


def _content(content: dict[str, Any]) -> str:
    lines = [f"{code(name)}: {words(media['schema'])}" for name, media in content.items()]
    examples = [block(_shown(media["example"]), "Example body") for media in content.values() if "example" in media]
    return f"<p>{', '.join(lines)}</p>" + "".join(examples)


def _answers(document: Document, operation: _Operation) -> str:
    rows = []
    for status, response in _responses(document, operation):
        if int(status) < 400:
            told = text(response["description"]) + (_content(response["content"]) if "content" in response else "")
        else:
            told = ", ".join(link(ERRORS + each, code(each)) for each in _codes_of(response))
        headers = ", ".join(code(name) for name in response.get("headers", ()))
        rows.append((escape(status), told, headers))
    return "<h4>Answers</h4>" + table("Answers", ("Status", "Meaning", "Headers"), rows)


def _body(name: str, schema: Schema) -> str:
    shown = f'<h3 id="body-{name}">{name}</h3>{text(schema.get("description", ""))}'
    if "properties" in schema:
        return shown + _properties(name, schema)
    return shown + f'<p class="type">{words(schema)}</p>'


def _properties(name: str, schema: Schema) -> str:
    required = schema.get("required", ())
    rows = [
        (
            code(field) + ("" if field in required else " <span class='type'>optional</span>"),
            f'<span class="type">{words(each)}</span>',
            inline(each.get("description", "")),
        )
        for field, each in schema["properties"].items()
    ]
    return table(f"Members of {name}", ("Member", "Type", "Meaning"), rows)


# The frame


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _navigation(groups: Iterable[tuple[str, list[str]]]) -> str:
    shown = "".join(
        f"<h2>{escape(name)}</h2><ul>{''.join(f'<li>{entry}</li>' for entry in entries)}</ul>"
        for name, entries in groups
    )
    return f'<nav aria-label="Contents">{shown}</nav>'


def _page(title: str, about: str, navigation: str, content: str) -> str:
    """A whole page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        '<a class="skip" href="#content">To the content</a>'
        f"<header><h1>{escape(title)}</h1><p>{about}</p></header>{navigation}"
        f'<main id="content">{content}</main></body></html>\n'
    )


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _shown(example: Any) -> str:
    """An example as it is sent."""
    return example if isinstance(example, str) else _json(example)
