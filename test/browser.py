"""A headless Chromium for tests, driven over its debugging socket; only where one is installed."""

import asyncio
import base64
import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import aiohttp

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


class Page:
    """One page of the browser."""

    def __init__(self, socket):
        self.socket, self.number, self.logged = socket, 0, []

    async def ask(self, method, **parameters):
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": parameters})
        while True:
            said = await self.socket.receive_json(timeout=30)
            if said.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.logged.append(said["params"])
            if said.get("id") == self.number:
                assert "error" not in said, said
                return said["result"]

    async def value(self, script):
        """What a JavaScript expression gives."""
        said = await self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    async def until(self, script, limit_s=60.0):
        """Wait until the expression is true."""
        deadline = time.monotonic() + limit_s
        while not (found := await self.value(script)):
            assert time.monotonic() < deadline, f"{script}: still {found}; page: {await self.value('document.body.innerText')}"
            await asyncio.sleep(0.1)
        return found

    async def too_wide(self):
        """By how many px the page is wider than its window: then a phone scrolls sideways."""
        return await self.value("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    async def picture(self, path):
        """Save what is seen as PNG."""
        Path(path).write_bytes(base64.b64decode((await self.ask("Page.captureScreenshot"))["data"]))


@contextlib.asynccontextmanager
async def opened(address, folder, width=1280, height=900):
    """The page at an address in a window of this size; ``folder`` holds the browser's profile."""
    arguments = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", f"--user-data-dir={folder}")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    browser = subprocess.Popen([CHROMIUM, *arguments, "about:blank"], env={**os.environ, "HOME": str(folder)}, **quiet)
    try:
        port_file, deadline = Path(folder) / "DevToolsActivePort", time.monotonic() + 60
        while not (port_file.exists() and "\n" in port_file.read_text()):
            assert browser.poll() is None and time.monotonic() < deadline, "the browser does not start"
            await asyncio.sleep(0.1)
        port = port_file.read_text().split()[0]
        async with aiohttp.ClientSession() as client:
            async with client.get(f"http://127.0.0.1:{port}/json/list") as answer:
                target = next(one for one in await answer.json() if one["type"] == "page")
            async with client.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
                for domain in ("Page", "Runtime", "Log"):
                    await page.ask(f"{domain}.enable")
                await page.ask("Emulation.setDeviceMetricsOverride", **size)
                await page.ask("Page.navigate", url=address)
                await page.until(f"location.href.startsWith({address[:12]!r}) && document.readyState !== 'loading'")
                yield page
    finally:
        browser.kill()
        browser.wait()
