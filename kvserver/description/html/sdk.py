"""The page of the client libraries that the server hands out. Pure."""

from __future__ import annotations

from html import escape
from typing import Final, NamedTuple

from kvserver import __version__
from kvserver.description.html.elements import code, link, render_block, render_inline, render_table, render_text
from kvserver.description.html.frame import render_page, render_section
from kvserver.description.operations import EXAMPLE_URL
from kvserver.http.routes import DOCS, SDK
from kvserver.sdk.files import FILES


class Library(NamedTuple):
    """A library, its files, and a first program with it."""

    title: str
    about: str
    files: tuple[str, ...]
    example: str


LIBRARIES: Final = (
    Library(
        "JavaScript",
        "A page imports it from here, whatever its origin; elsewhere download it, and its types beside it. It has no "
        "dependencies and needs no build.",
        ("client.js", "client.d.ts"),
        f"""\
import {{ connect }} from "{EXAMPLE_URL}/sdk/client.js"; // or "./client.js"
const kv = connect("{EXAMPLE_URL}");
await kv.put("flags/beta", {{ on: true }});
console.log((await kv.get("flags/beta")).json());
for await (const change of kv.watch("flags/", {{ snapshot: true }})) console.log(change.kind, change.key);
""",
    ),
    Library(
        "C",
        f"`curl -O {EXAMPLE_URL}/sdk/kvclient.h -O {EXAMPLE_URL}/sdk/kvclient.c -O {EXAMPLE_URL}/sdk/libMemoryKV.h` "
        "downloads it; `cc app.c kvclient.c $(pkg-config --cflags --libs libcurl jansson) -lwslay` builds a program.",
        ("kvclient.h", "kvclient.c"),
        f"""\
kv_client *kv = kv_open("{EXAMPLE_URL}", NULL);
kv_entry entry;
if (kv_put_text(kv, "greeting", "hello") == KV_OK && kv_get(kv, "greeting", &entry) == KV_OK)
    printf("%s\\n", entry.value), kv_entry_free(&entry);
kv_close(kv);
""",
    ),
    Library(
        "C, with MemoryKV's names",
        "A program that was written for MemoryKV's C library is compiled with this header and `kvclient.c`, unchanged.",
        ("libMemoryKV.h",),
        f"""\
memkv_client *client = memkv_client_new("{EXAMPLE_URL}");
memkv_result_free(memkv_put_key(client, "theme", "dark"));
memkv_result *got = memkv_get_key(client, "theme");
printf("%s\\n", got->success ? got->result : got->error);
memkv_result_free(got), memkv_client_free(client);
""",
    ),
)


def render_libraries() -> str:
    """Render the page."""
    about = f"Version {escape(__version__)} · {link(DOCS, 'kvserver API')}"
    return render_page("Client libraries", about, "", "".join(map(_render_library, LIBRARIES)))


def _render_library(library: Library) -> str:
    rows = [(link(SDK + name, code(name)), render_inline(FILES[name].summary)) for name in library.files]
    files = render_table(f"Files for {library.title}", ("File", "What it is"), rows)
    return render_section(library.title, render_text(library.about) + files + render_block(library.example, "Example"))
