"""The pictures of the manual, which the server hands out below `/docs/pictures/`, read from the package."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import kvserver

HOME: Final = Path(kvserver.__file__).parent / "manual" / "pictures"
MEDIA_TYPES: Final = {".svg": "image/svg+xml", ".webp": "image/webp"}
"""By the ending of a name; a file with another ending is not handed out."""


def read_pictures() -> dict[str, tuple[bytes, str]]:
    """Return the content and the media type of every picture, by name. Raises `FileNotFoundError`: there is no folder
    of pictures, so the installation is not whole."""
    kinds = {path.name: MEDIA_TYPES[path.suffix] for path in sorted(HOME.iterdir()) if path.suffix in MEDIA_TYPES}
    return {name: ((HOME / name).read_bytes(), kind) for name, kind in kinds.items()}
