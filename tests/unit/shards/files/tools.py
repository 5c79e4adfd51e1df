"""What tests of files share: a write to what a path names, and another user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shards.files.safe_files import writing_to

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what is another user's")


OTHER = 12345


def write(path: Path, text: str = "new\n") -> None:
    with writing_to(path) as file:
        file.write(text.encode())
