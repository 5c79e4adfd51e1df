"""The driver of the JavaScript client in a page: `conform_page.py ENDPOINT`, where a chromium listens for commands.

Each line of standard input goes to the page, where `driver.js` carries it out, and writes lines back.
"""

from __future__ import annotations

import asyncio
import os
import sys

from playwright.async_api import Page, async_playwright

from tests.client.js.pages import Files

BEGIN = """
async ([url, token]) => {
  const [{Driver}, {connect}] = await Promise.all([import('/tests/driver.js'), import('/client.js')]);
  self.driver = new Driver(() => connect(url, token ? {token} : {}), write);
}
"""


async def serve(page: Page) -> None:
    """Carry out the requests of standard input, one after another, until it ends."""
    loop = asyncio.get_running_loop()
    last: asyncio.Task[object] | None = None

    async def handle(line: str, before: asyncio.Task[object] | None) -> None:
        if before is not None:
            await before
        await page.evaluate("line => driver.handle(line)", line)

    while line := await loop.run_in_executor(None, sys.stdin.readline):
        last = asyncio.create_task(handle(line, last))
    await page.evaluate("driver.stop()")
    if last is not None:
        await last


async def main() -> None:
    """Open a page of its own."""
    files = Files()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(sys.argv[1])
        page = await (await browser.new_context()).new_page()
        await page.expose_function("write", lambda line: print(line, flush=True))
        await page.goto(files.origin() + "/package.json")
        await page.evaluate(BEGIN, [os.environ["KVSERVER_URL"], os.environ.get("KVSERVER_TOKEN")])
        await serve(page)
        await page.context.close()
    files.close()


if __name__ == "__main__":
    asyncio.run(main())
