"""The files of the client libraries that the server hands out below `/sdk/`: a row for each, read from the package."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

HOME: Final = Path(__file__).parent
JAVASCRIPT: Final = "text/javascript; charset=utf-8"
TEXT: Final = "text/plain; charset=utf-8"


class SdkFile(NamedTuple):
    """A file that is handed out.

    Attributes:
        place: where it is, below `HOME`; its last part is its name at `/sdk/`.
        media_type: what it is served as.
        summary: what it is, in Markdown.
    """

    place: str
    media_type: str
    summary: str

    @property
    def name(self) -> str:
        """The part of the path after `/sdk/`."""
        return self.place.rpartition("/")[2]

    def read(self) -> bytes:
        """Return its content. Raises `FileNotFoundError`: the installation is not whole."""
        return (HOME / self.place).read_bytes()


FILES: Final = {
    file.name: file
    for file in (
        SdkFile("js/client.js", JAVASCRIPT, "The client for browsers, Node from 20 on and Deno: one module."),
        SdkFile("js/client.d.ts", TEXT, "Its types, with the description of every method."),
        SdkFile("c/kvclient.h", TEXT, "The functions of the C client, each with its description."),
        SdkFile("c/kvclient.c", TEXT, "Their source; it needs libcurl, jansson and wslay."),
        SdkFile("c/libMemoryKV.h", TEXT, "MemoryKV's C functions, which are in `kvclient.c` too."),
    )
}
"""By name."""


def read_files() -> dict[str, bytes]:
    """Return the content of every file, by name. Raises `FileNotFoundError`, which names the missing one."""
    return {name: file.read() for name, file in FILES.items()}
