"""Pieces of HTML, and schemas in words. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import Any, Final

from kvserver.api.query import Schema
from kvserver.description.operations import EXAMPLE_URL

_CODE = re.compile(r"`([^`]+)`")
_ITEM: Final = "- "
_PROMPT: Final = "$ "
_LINES_OF_DRAWINGS: Final = frozenset("─│┌└├►▼")
_DEFAULT: Final = f"else {EXAMPLE_URL}"
"""Comments of examples that tell the default of a client: there the address stays as it is."""


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
    return _frame_block(escape(source), label, "")


def render_example(source: str, language: str, label: str) -> str:
    """Render an example of the manual. In a `console` what is typed is told from what is printed."""
    shown = escape(source).replace(_DEFAULT, _DEFAULT.replace(":", "&#58;"))
    if language == "console":
        shown = "\n".join(map(_render_line_of_console, shown.split("\n")))
    return _frame_block(shown, label, "drawing" if _LINES_OF_DRAWINGS & set(source) else language)


def _render_line_of_console(line: str) -> str:
    if not line.startswith(_PROMPT):
        return f'<span class="out">{line}</span>'
    return f'<span class="prompt">{_PROMPT}</span><span class="typed">{line.removeprefix(_PROMPT)}</span>'


def _frame_block(content: str, label: str, kind: str) -> str:
    named = f' class="{escape(kind)}"' if kind else ""
    return (
        f'<div class="example"><pre{named} tabindex="0" role="group" aria-label="{escape(label)}">'
        f"<code>{content}</code></pre></div>"
    )


def render_table(label: str, names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Render a table of HTML cells, the first of each row its heading."""
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = "".join(_render_row(*row) for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(label)}">'
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
