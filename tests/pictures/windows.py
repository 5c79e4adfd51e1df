"""Windows as pictures show them: a page of a browser, or what a terminal shows, in a frame with a title."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, Literal, NamedTuple

from PIL import Image
from playwright.sync_api import Browser, Page
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

Theme = Literal["light", "dark"]
THEMES: Final[tuple[Theme, ...]] = ("light", "dark")
SCALE: Final = 2
"""Pixels of a picture for each of a page: what screens with fine pixels show."""
QUALITY: Final = 80
_ON_LIGHT: Final = [
    (0, 0, 0),
    (170, 30, 30),
    (20, 120, 50),
    (140, 100, 0),
    (10, 88, 184),
    (130, 60, 160),
    (0, 120, 130),
    (87, 96, 106),
]
_ON_DARK: Final = [
    (60, 66, 74),
    (255, 123, 114),
    (126, 211, 145),
    (226, 184, 92),
    (125, 180, 255),
    (210, 168, 255),
    (118, 212, 214),
    (200, 205, 212),
]
_TERMINALS: Final = {
    "light": TerminalTheme((251, 252, 253), (27, 31, 36), _ON_LIGHT),
    "dark": TerminalTheme((20, 23, 27), (227, 230, 234), _ON_DARK),
}
_FRAME: Final = {
    "light": {
        "desk": "#e9edf2",
        "bar": "#f3f5f7",
        "line": "#cfd6dd",
        "text": "#1b1f24",
        "soft": "#57606a",
        "back": "#fbfcfd",
    },
    "dark": {
        "desk": "#0b0d10",
        "bar": "#1e2228",
        "line": "#343a42",
        "text": "#e3e6ea",
        "soft": "#9aa4af",
        "back": "#14171b",
    },
}
_STYLE: Final = """
* {{ box-sizing: border-box; }}
body {{
  margin: 0; padding: 18px; width: max-content; background: {desk}; color: {text}; font: 14px/1.4 system-ui, sans-serif;
}}
.desk {{ display: grid; gap: 16px 18px; }}
.told {{ margin: 0 0 7px 4px; font-weight: 600; font-size: 15px; }}
.window {{
  border: 1px solid {line}; border-radius: 9px; overflow: hidden; background: {back};
  box-shadow: 0 4px 14px rgb(0 0 0 / .13);
}}
.title {{
  display: flex; align-items: center; gap: 7px; padding: 7px 12px; background: {bar}; color: {soft}; font-size: 12.5px;
  border-bottom: 1px solid {line};
}}
.title i {{ width: 11px; height: 11px; border-radius: 50%; background: {line}; }}
.title span {{ margin-left: 6px; }}
.window img {{ display: block; }}
pre {{ margin: 0; padding: 12px 14px; font: 13.5px/1.45 "DejaVu Sans Mono", monospace; }}
"""


@dataclass(frozen=True)
class Window:
    """A window: what stands above it, its title, and what is in it, as HTML."""

    told: str
    title: str
    content: str
    columns: int = 1


class Screen(NamedTuple):
    """What a terminal shows, with its colours as escape sequences."""

    text: str
    lines: int

    def render(self, theme: Theme) -> str:
        """Return it as HTML."""
        console = Console(record=True, width=400, file=io.StringIO(), color_system="truecolor", force_terminal=True)
        lines = self.text.rstrip().split("\n")[: self.lines]
        for line in lines:
            console.print(Text.from_ansi(line), soft_wrap=True)
        shown = console.export_html(theme=_TERMINALS[theme], inline_styles=True, code_format="{code}")
        return f"<pre>{shown.rstrip()}</pre>"


def picture_of(page: Page) -> str:
    """Return what a page shows as HTML of an image of the same size."""
    size = page.viewport_size
    assert size is not None
    shown = b64encode(page.screenshot()).decode()
    return f'<img width="{size["width"]}" height="{size["height"]}" src="data:image/png;base64,{shown}" alt="">'


def show(browser: Browser, theme: Theme, windows: Sequence[Window], columns: int = 1) -> bytes:
    """Lay the windows out on a desk of so many columns, and return a picture of it, as WebP."""
    style = _STYLE.format(**_FRAME[theme])
    shown = "".join(
        f'<section style="grid-column: span {window.columns}">'
        + (f'<p class="told">{escape(window.told)}</p>' if window.told else "")
        + f'<div class="window"><div class="title"><i></i><i></i><i></i><span>{escape(window.title)}</span></div>'
        f"{window.content}</div></section>"
        for window in windows
    )
    page = browser.new_page(device_scale_factor=SCALE)
    try:
        grid = f"grid-template-columns: repeat({columns}, auto)"
        page.set_content(f'<!doctype html><style>{style}</style><div class="desk" style="{grid}">{shown}</div>')
        return to_webp(page.locator("body").screenshot())
    finally:
        page.close()


def to_webp(png: bytes) -> bytes:
    """Return a picture in a smaller format that all browsers know."""
    file = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(file, "WEBP", quality=QUALITY, method=6)
    return file.getvalue()
