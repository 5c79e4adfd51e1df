"""The script that makes the pictures of README and manual."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.pictures.__main__ import DRAWERS, PICTURES

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("tmux")), reason="chromium or tmux is not installed")
def test_two_browsers_and_a_terminal_are_made_into_pictures(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.pictures", "live", "--port", "0", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    sizes = {}
    for path in tmp_path.iterdir():
        assert path.stat().st_size < 200 << 10
        with Image.open(path) as picture:
            assert picture.format == "WEBP"
            sizes[path.name] = picture.size
    assert sizes.keys() == {"live.light.webp", "live.dark.webp"}
    assert min(min(size) for size in sizes.values()) > 1000, "fine enough for a screen with small pixels"


def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.pictures", "live", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "Error: chromium is not installed\n")


def test_every_picture_of_the_manual_that_is_no_plot_has_its_drawer() -> None:
    names = {path.name.partition(".")[0] for path in PICTURES.glob("*.webp")}
    assert names == {"live", "console-keys", "console-feed", "console-status", "commands", "top"}
    assert set(DRAWERS) == {"live", "keys", "commands", "busy"}
