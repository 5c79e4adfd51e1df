"""Another number of shards where old and new maps do not both fit: `unshare -rm python -m tests.system.small_maps DIR`.

Mounts a small tmpfs, in a namespace of its own, and runs a server that has its maps there.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.system.harness import Server

MiB = 1 << 20
VALUE = bytes(5_000_000)
KEYS = [f"/k{i}" for i in range(12)]


def main(directory: Path) -> None:
    """Fill, then start with other numbers of shards; at last where not even the new maps fit."""
    server = Server(directory / "data")
    try:
        mount(server.map_dir, 160 * MiB)
        for shards in (2, 1):
            server.options = ("--shards", str(shards), "--workers", "1", "--sync", "os")
            server.start()
            with server.client() as client:
                for key in KEYS:
                    if not client.get(key).content:
                        client.put(key, content=VALUE).raise_for_status()
                    assert client.get(key).content == VALUE
            server.stop()
        mount(server.map_dir, 40 * MiB)
        assert server.spawn().wait(60) == 1
        said = server.log()
        assert f"in {server.map_dir}" in said, said
        assert "--map-dir" in said, said
        assert not list(server.map_dir.glob("shard-*.new")), "what did not fit is not left in the way"
        for _ in range(2):
            subprocess.run(["umount", str(server.map_dir)], check=True)
    finally:
        server.close()


def mount(place: Path, size: int) -> None:
    """A small file system at `place`."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
