"""`python -m tests.generated_clients`"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx

from tests.system.harness import Server

HERE: Final = Path(__file__).parent
VALUE: Final = "dark"
OAPI_CODEGEN: Final = "github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@latest"


def run(place: Path, *command: object, **environ: str) -> str:
    """What `command` prints. Exits with all that it says if it fails."""
    done = subprocess.run(
        [str(word) for word in command], cwd=place, env=os.environ | environ, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def python(place: Path, url: str) -> str:
    """openapi-python-client."""
    run(place, sys.executable, "-m", "venv", "venv")
    run(place, "venv/bin/pip", "install", "-q", "openapi-python-client")
    generator = place / "venv/bin/openapi-python-client"
    run(place, generator, "generate", "--path", "openapi.json", "--output-path", "generated")
    return run(place, "venv/bin/python", HERE / "client.py", url, PYTHONPATH=str(place / "generated"))


def typescript(place: Path, url: str) -> str:
    """openapi-typescript, with its openapi-fetch."""
    (place / "package.json").write_text('{"type":"module"}')
    shutil.copy(HERE / "client.ts", place)
    run(place, "npm", "install", "--silent", "typescript@5", "openapi-typescript@7", "openapi-fetch")
    run(place, "npx", "openapi-typescript", "openapi.json", "--output", "api.ts")
    run(place, "npx", "tsc", "--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2022", "client.ts")
    return run(place, "node", "client.js", url)


def go(place: Path, url: str) -> str:
    """oapi-codegen."""
    (place / "kv").mkdir()
    shutil.copy(HERE / "client.go", place / "main.go")
    run(place, "go", "mod", "init", "generated")
    generator = ("go", "run", OAPI_CODEGEN)
    run(place, *generator, "-generate", "types,client", "-package", "kv", "-o", "kv/kv.go", "openapi.json")
    run(place, "go", "mod", "tidy")
    return run(place, "go", "run", ".", url)


CLIENTS: Final[tuple[Callable[[Path, str], str], ...]] = (python, typescript, go)


def main() -> None:
    """Make, and try, the clients that are named on the command line; without names all of them."""
    chosen = [make for make in CLIENTS if make.__name__ in (sys.argv[1:] or [each.__name__ for each in CLIENTS])]
    with tempfile.TemporaryDirectory() as temporary, Server(Path(temporary) / "data") as server:
        description = httpx.get(f"{server.url}/v1/openapi.json", trust_env=False).raise_for_status()
        for make in chosen:
            place = Path(temporary) / make.__name__
            place.mkdir()
            (place / "openapi.json").write_bytes(description.content)
            told = make(place, server.url).strip()
            with server.client() as client:
                stored = client.get(f"/v1/kv/generated/{make.__name__}").text
            if (told, stored) != (VALUE, VALUE):
                sys.exit(f"{make.__name__}: it read {told!r}, and stored {stored!r}")
            print(f"{make.__name__}: {make.__doc__} stored and read a value")


if __name__ == "__main__":
    main()
