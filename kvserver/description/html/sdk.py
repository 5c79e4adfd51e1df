"""The page of the client libraries that the server hands out. Pure."""

from __future__ import annotations

from html import escape
from typing import Final, NamedTuple

from kvserver import __version__
from kvserver.description.html.elements import (
    code,
    link,
    render_block,
    render_example,
    render_inline,
    render_table,
    render_text,
)
from kvserver.description.html.frame import render_page, render_section
from kvserver.description.operations import EXAMPLE_URL
from kvserver.http.routes import DOCS, SDK
from kvserver.sdk.files import FILES


class Library(NamedTuple):
    """A library, its files, how to get and use them, and a first program."""

    title: str
    about: str
    files: tuple[str, ...]
    commands: str
    example: str


_SDK_URL: Final = EXAMPLE_URL + SDK

LIBRARIES: Final = (
    Library(
        "JavaScript",
        f"A page imports `{_SDK_URL}client.js` from here, whatever its origin. Node imports files: download it, its "
        "types next to it, and say in `package.json` that they are modules. It has no dependencies and needs no build.",
        ("client.js", "client.d.ts"),
        f"""\
curl -O {_SDK_URL}client.js -O {_SDK_URL}client.d.ts
echo '{{"type": "module"}}' > package.json
""",
        f"""\
import {{ connect }} from "./client.js"; // in a page: "{_SDK_URL}client.js"
const kv = connect("{EXAMPLE_URL}");
await kv.put("flags/beta", {{ on: true }});
console.log((await kv.get("flags/beta")).json());
for await (const change of kv.watch("flags/", {{ snapshot: true }})) console.log(change.kind, change.key);
""",
    ),
    Library(
        "C",
        "One header and one source, compiled with the program. On Debian what it needs is `gcc`, `pkg-config`, "
        "`libcurl4-openssl-dev`, `libjansson-dev` and `libwslay-dev`.",
        ("kvclient.h", "kvclient.c"),
        f"""\
curl -O {_SDK_URL}kvclient.h -O {_SDK_URL}kvclient.c -O {_SDK_URL}libMemoryKV.h
cc app.c kvclient.c $(pkg-config --cflags --libs libcurl jansson) -lwslay -o app
""",
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
        "",
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
    about = f"Version {escape(__version__)} · {link(DOCS + 'clients', 'what they promise, and how to start')}"
    return render_page(SDK, "Client libraries", about, "", "".join(map(_render_library, LIBRARIES)))


def _render_library(library: Library) -> str:
    rows = [(link(SDK + name, code(name)), render_inline(FILES[name].summary)) for name in library.files]
    files = render_table(f"Files for {library.title}", ("File", "What it is"), rows)
    commands = render_example(library.commands.rstrip(), "sh", "Commands") if library.commands else ""
    shown = commands + render_block(library.example.rstrip(), "Example")
    return render_section(library.title, render_text(library.about) + files + shown)
