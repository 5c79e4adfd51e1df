"""The files of the console that the server hands out below `/console/`, read from the package."""

from __future__ import annotations

from pathlib import Path
from typing import Final

HOME: Final = Path(__file__).parent
PAGE: Final = "index.html"
MEDIA_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""By the ending of a name; a file with another ending is not handed out."""

SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
"""The Content-Security-Policy of the page. Its modules, and those of `/sdk/`, are files of this server; nothing makes a
script of a text."""


def read_page() -> bytes:
    """Return the page. Raises `FileNotFoundError`: the installation is not whole."""
    return (HOME / PAGE).read_bytes()


def read_files() -> dict[str, tuple[bytes, str]]:
    """Return the content and the media type of every file beside the page, by name."""
    kinds = {path.name: MEDIA_TYPES[path.suffix] for path in sorted(HOME.iterdir()) if path.suffix in MEDIA_TYPES}
    return {name: ((HOME / name).read_bytes(), kind) for name, kind in kinds.items()}
