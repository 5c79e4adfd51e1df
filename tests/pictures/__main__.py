"""`python -m tests.pictures`: make the pictures of README and manual anew, but for the benchmark's plots."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import click
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.pictures.scene import FLAG, Shell, Shop, fill
from tests.pictures.windows import THEMES, Theme, Window, picture_of, show
from tests.system.harness import Server

PICTURES: Final = Path(__file__).parents[2] / "kvserver" / "manual" / "pictures"
_WIDE, _NARROW = (1120, 700), (530, 520)
_CHART_S: Final = 45

Drawn = Mapping[str, bytes]
"""Pictures by the names of their files."""


class Desk:
    """A server and a browser, with pages of the console in it."""

    def __init__(self, server: Server, browser: Browser) -> None:
        self.server, self.browser = server, browser
        self.address = f"localhost:{server.port}/console/"

    @contextmanager
    def consoles(self, place: str, size: tuple[int, int]) -> Iterator[dict[Theme, Page]]:
        """The console at a place, for each theme a page of its own."""
        with ExitStack() as stack:
            pages: dict[Theme, Page] = {}
            for theme in THEMES:
                context = self.browser.new_context(
                    viewport={"width": size[0], "height": size[1]}, color_scheme=theme, device_scale_factor=2
                )
                stack.callback(context.close)
                pages[theme] = context.new_page()
                pages[theme].goto(f"http://{self.address}{place}")
                pages[theme].locator(".tabs .state[data-kind=live]").wait_for()
            yield pages

    def frame(self, name: str, pages: Mapping[Theme, Page]) -> Drawn:
        """Return pictures of pages, each in a window of its own."""
        return {
            f"{name}.{theme}.webp": show(self.browser, theme, [Window("", self.address, picture_of(page))])
            for theme, page in pages.items()
        }


def draw_one_change(desk: Desk) -> Drawn:
    """Two browsers and a terminal see one change."""
    key = FLAG.replace("/", "%2F")
    with (
        desk.consoles(f"#/key/{key}", _NARROW) as editors,
        desk.consoles("#/feed", _NARROW) as feeds,
        Shell(desk.server, 128, 8) as shell,
    ):
        shell.run("kvserver watch flags/ --snapshot", "flags/search")
        editor = editors["light"]
        editor.get_by_role("button", name="Edit", exact=True).click()
        editor.get_by_label("Value", exact=True).fill('{"on":true,"share":0.5}')
        editor.get_by_role("button", name="Save").click()
        shell.see('"share":0.5')
        for page in (*editors.values(), *feeds.values()):
            expect(page.locator("main")).to_contain_text("0.5")
        for page in editors.values():
            page.locator(".entry").evaluate("box => box.scrollTo(0, 0)")
        seen = shell.look()
        return {
            f"live.{theme}.webp": show(
                desk.browser,
                theme,
                [
                    Window("Somebody saves a value in one browser.", desk.address, picture_of(editors[theme])),
                    Window("Another browser shows it at once,", desk.address, picture_of(feeds[theme])),
                    Window("and so does a terminal.", "Terminal", seen.render(theme), columns=2),
                ],
                columns=2,
            )
            for theme in THEMES
        }


def draw_keys(desk: Desk) -> Drawn:
    """The console's keys."""
    with desk.consoles(f"#/key/{FLAG.replace('/', '%2F')}", _WIDE) as pages:
        for page in pages.values():
            for folder in ("flags/", "sessions/"):
                page.get_by_role("treeitem", name=folder, exact=True).locator(".twist").click()
            expect(page.get_by_role("treeitem", name="sensors/", exact=True).locator(".size")).to_have_text("1,000+")
            expect(page.get_by_role("treeitem", name="users/", exact=True).locator(".size")).to_have_text("8")
            page.get_by_role("button", name="Indented").click()
            page.mouse.move(_WIDE[0] - 1, _WIDE[1] - 1)
        return desk.frame("console-keys", pages)


def draw_busy(desk: Desk) -> Drawn:
    """The console's feed and status and `kvserver top`, while the store is used."""
    with (
        Shop(desk.server),
        desk.consoles("#/status", _WIDE) as states,
        desk.consoles("#/feed", _WIDE) as feeds,
        Shell(desk.server, 100, 30) as shell,
    ):
        shell.run("kvserver top", "restarts")
        states["light"].wait_for_timeout(_CHART_S * 1000)
        drawn = desk.frame("console-status", states) | desk.frame("console-feed", feeds)
        return drawn | _frame_terminal(desk, "top", shell)


def draw_commands(desk: Desk) -> Drawn:
    """The command line."""
    with Shell(desk.server, 100, 27) as shell:
        shell.run("kvserver put flags/beta '{\"on\":false}' --type json")
        shell.run("kvserver get flags/beta")
        shell.run("kvserver incr visits")
        shell.run("kvserver ls -l flags/")
        shell.run("kvserver put leader me --create --ttl 30s")
        shell.run('kvserver put leader you --create --ttl 30s; echo "exit status $?"')
        shell.run("kvserver watch flags/ --snapshot --until-synced")
        return _frame_terminal(desk, "commands", shell)


def _frame_terminal(desk: Desk, name: str, shell: Shell) -> Drawn:
    seen = shell.look()
    shown = {theme: [Window("", "Terminal", seen.render(theme))] for theme in THEMES}
    return {f"{name}.{theme}.webp": show(desk.browser, theme, windows) for theme, windows in shown.items()}


DRAWERS: Final[Mapping[str, Callable[[Desk], Drawn]]] = {
    "live": draw_one_change,
    "keys": draw_keys,
    "commands": draw_commands,
    "busy": draw_busy,
}


@click.command(help=f"Make the pictures anew, or those named: {', '.join(DRAWERS)}. It takes two minutes.")
@click.argument("names", nargs=-1, type=click.Choice(list(DRAWERS)))
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), default=PICTURES, help="Where they go.")
@click.option("--port", default=8080, show_default=True, help="Where the server listens; pictures show it.")
def main(names: tuple[str, ...], output: Path, port: int) -> None:
    for program in ("chromium", "tmux"):
        if shutil.which(program) is None:
            raise click.ClickException(f"{program} is not installed")
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pictures-") as data, sync_playwright() as playwright:
        options = {"executable_path": shutil.which("chromium"), "args": ["--no-sandbox", "--no-proxy-server"]}
        browser = playwright.chromium.launch(**options)  # type: ignore[arg-type]
        with Server(Path(data), "--port", str(port)) as server:
            fill(server)
            for name in names or DRAWERS:
                for file, content in DRAWERS[name](Desk(server, browser)).items():
                    (output / file).write_bytes(content)
                    click.echo(f"{output / file}  {len(content) / 1024:.0f} KiB")
        browser.close()


if __name__ == "__main__":
    main()
