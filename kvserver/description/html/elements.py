"""Pieces of HTML, and schemas in words. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import Any, Final

from kvserver.api.query import Schema

_CODE = re.compile(r"`([^`]+)`")
_ITEM: Final = "- "


def code(text: str) -> str:
    """Render text as code."""
    return f"<code>{escape(text)}</code>"


def link(target: str, content: str) -> str:
    """Render a link; `content` is HTML."""
    return f'<a href="{escape(target)}">{content}</a>'


def render_inline(markdown: str) -> str:
    """Render a line of Markdown, of which only code is supported."""
    return _CODE.sub(r"<code>\1</code>", escape(markdown, quote=False))


def render_text(markdown: str) -> str:
    """Render paragraphs and lists of Markdown."""
    return "".join(_render_paragraph(part) for part in markdown.split("\n\n") if part)


def _render_paragraph(part: str) -> str:
    lines = part.splitlines()
    if all(line.startswith(_ITEM) for line in lines):
        return "<ul>" + "".join(f"<li>{render_inline(line.removeprefix(_ITEM))}</li>" for line in lines) + "</ul>"
    return f"<p>{render_inline(' '.join(lines))}</p>"


def render_block(source: str, label: str) -> str:
    """Render source code. It may be wider than the page, so the keyboard must be able to scroll it."""
    return f'<pre tabindex="0" role="region" aria-label="{escape(label)}"><code>{escape(source)}</code></pre>'


def render_table(label: str, names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Render a table of HTML cells, the first of each row its heading."""
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = "".join(_render_row(*row) for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _render_row(first: str, *others: str) -> str:
    return f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others) + "</tr>"


def describe_schema(schema: Schema) -> str:
    """Say in a few words of HTML what `schema` allows."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return link(f"#body-{name}", name)
    if "enum" in schema:
        return " or ".join(code(_show_value(each)) for each in schema["enum"])
    if "oneOf" in schema:
        return ", or ".join(describe_schema(each) for each in schema["oneOf"])
    if schema.get("type") == "array":
        return f"array of: {describe_schema(schema['items'])}"
    return " ".join([_type_name(schema), *_describe_bounds(schema)])


def _type_name(schema: Schema) -> str:
    kind = schema.get("type", "anything")
    kinds: list[str] = [kind] if isinstance(kind, str) else kind
    shown = " or ".join("true or false" if each == "boolean" else each for each in kinds)
    if "format" in schema and schema["format"] != "int64":
        shown += f" ({schema['format']})"
    return f"{shown} ({schema['contentEncoding']})" if "contentEncoding" in schema else shown


def _describe_bounds(schema: Schema) -> Iterable[str]:
    if "minimum" in schema and "maximum" in schema:
        yield f"from {_show_number(schema['minimum'])} to {_show_number(schema['maximum'])}"
    elif "minimum" in schema:
        yield f"from {_show_number(schema['minimum'])}"
    if "maxLength" in schema:
        yield f"of at most {schema['maxLength']} characters"
    if "maxItems" in schema:
        yield f"of at most {_show_number(schema['maxItems'])}"


def _show_number(value: float) -> str:
    power = {-(1 << 63): "-2⁶³", (1 << 63) - 1: "2⁶³-1", (1 << 53) - 1: "2⁵³-1"}
    return power.get(value, f"{value:,}") if isinstance(value, int) else str(value)


def _show_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
