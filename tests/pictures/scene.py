"""What pictures show: a store like that of a small shop, and what happens in it."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from tests.pictures.windows import Screen
from tests.system.harness import Server, wait_for
from tests.system.kvserver.commands.terminals import Terminal, of_a_user

FLAG: Final = "flags/checkout"
PROMPT: Final = "$ "
_FLAGS: Final = {
    "beta": {"on": True},
    "checkout": {"on": False, "share": 0.1},
    "dark": {"on": True},
    "search": {"on": False},
}
_PEOPLE: Final = ("ann", "bob", "cleo", "dan", "eve", "finn", "gus", "hana")
_SENSORS: Final = 1400


def fill(server: Server) -> None:
    """Store what the pictures show."""
    ops: list[dict[str, Any]] = [_put(f"flags/{name}", flag) for name, flag in _FLAGS.items()]
    ops += [_put(f"users/{name}", {"name": name.title(), "cart": at}) for at, name in enumerate(_PEOPLE)]
    ops += [_put(f"sessions/{name}", {"page": "/"}, ttl=1800 + 60 * at) for at, name in enumerate(_PEOPLE)]
    ops += [_put(f"sensors/{at:04}", {"celsius": 20 + at % 7}) for at in range(_SENSORS)]
    ops += [_put(f"orders/2026/{at:05}", {"total": at}) for at in range(312)]
    ops += [_put("config/limits", {"cart": 50, "orders": 3}), _put("visits", 18_204)]
    shop = b'name = "Shop"\ncurrency = "EUR"\n'
    text = {"op": "put", "key": "config/shop.toml", "value": shop, "content_type": "text/plain"}
    with server.client() as client:
        for start in range(0, len(ops), 500):
            body = msgspec.msgpack.encode({"ops": [*ops[start : start + 500], text]})
            headers = {"Content-Type": "application/vnd.msgpack"}
            client.post("/v1/batch", content=body, headers=headers).raise_for_status()


def _put(key: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"op": "put", "key": key, "value": msgspec.json.encode(value), "content_type": "application/json", **more}


class Shop:
    """People who use the store, in a thread: reads and writes, some hundred a second, until the block ends."""

    def __init__(self, server: Server, pause_s: float = 0.004) -> None:
        self._server, self._pause_s = server, pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Shop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        chance = random.Random(4)
        with self._server.client() as client:
            while not self._stop.wait(self._pause_s * chance.random() * 2):
                self._act(client, chance)

    def _act(self, client: httpx.Client, chance: random.Random) -> None:
        name = chance.choice(_PEOPLE)
        kind = chance.random()
        if kind < 0.7:
            client.get(f"/v1/kv/users/{name}")
        elif kind < 0.8:
            sensor = f"/v1/kv/sensors/{chance.randrange(_SENSORS):04}"
            client.put(sensor, json={"celsius": chance.randrange(180, 260) / 10})
        elif kind < 0.88:
            page = chance.choice(("/", "/cart", "/search", "/shoes", "/hats"))
            client.put(f"/v1/kv/sessions/{name}", params={"ttl": "1800"}, json={"page": page})
        elif kind < 0.94:
            client.post("/v1/kv/visits", params={"incr": "1"})
        elif kind < 0.97:
            client.patch(
                f"/v1/kv/users/{name}",
                content=msgspec.json.encode({"cart": chance.randrange(9)}),
                headers={"Content-Type": "application/merge-patch+json"},
            )
        else:
            client.post(f"/v1/kv/sessions/{name}", params={"ttl": "1800"})


class Shell(Terminal):
    """A shell in a terminal whose commands find the server."""

    def __init__(self, server: Server, width: int, height: int) -> None:
        bin_dir = Path(server.python).parent
        environ = {"PATH": f"{bin_dir}:{os.environ['PATH']}", "KVSERVER_URL": f"http://localhost:{server.port}"}
        super().__init__(f"env PS1='{PROMPT}' bash --norc --noprofile", of_a_user(environ), width, height)
        self._height = height
        self._wait_for_prompt()

    def run(self, command: str, words: str = "") -> None:
        """Type a command, and wait until the terminal shows `words` beside it, or without them the next prompt."""
        self.type(command)
        self.press("Enter")
        if words:
            self.see(words)
        else:
            self._wait_for_prompt()

    def _wait_for_prompt(self) -> None:
        wait_for(lambda: self.screen().rstrip().split("\n")[-1] == PROMPT.strip(), "a prompt")

    def look(self) -> Screen:
        """Return what the terminal shows, with its colours."""
        return Screen(self._run("capture-pane", "-p", "-e", "-t", "t"), self._height)
