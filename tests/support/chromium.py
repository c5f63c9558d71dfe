"""A real Chromium without a screen, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp

from tests.support.process import ServerProcess, clean_environment, find_program
from tests.support.wait import wait_until


class Chromium(ServerProcess):
    """A browser. Its profile is in its directory."""

    name = "chromium"

    def command(self) -> Sequence[str | Path]:
        return [
            find_program("chromium", "chromium"),
            "--headless=new",
            "--no-sandbox",  # which needs more than a container has
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-proxy-server",
            "--force-color-profile=srgb",
            f"--user-data-dir={self.directory / 'profile'}",
            f"--remote-debugging-port={self.port}",
            "about:blank",
        ]

    def environment(self) -> dict[str, str]:
        return clean_environment(HOME=str(self.directory))

    def is_ready(self) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/json/version", timeout=5):
            return True

    @asynccontextmanager
    async def tab(self) -> AsyncIterator[Tab]:
        """A new tab, closed at the end."""
        base = f"http://127.0.0.1:{self.port}"
        async with aiohttp.ClientSession() as http:
            async with http.put(f"{base}/json/new?about:blank") as response:
                target = await response.json()
            async with (
                http.ws_connect(
                    target["webSocketDebuggerUrl"], max_msg_size=0, proxy=None
                ) as socket,
                Tab(socket) as tab,
            ):
                yield tab
            async with http.get(f"{base}/json/close/{target['id']}"):
                pass


class BrowserError(Exception):
    """The browser refused a command, or a script failed."""


class Tab:
    """One tab of a browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self.console: list[str] = []
        """Errors and warnings: of scripts, of requests, and what a content policy has refused."""

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read())
        for domain in ("Page", "Runtime", "Log"):
            await self.command(f"{domain}.enable")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reader.cancel()

    async def _read(self) -> None:
        async for message in self._socket:
            event = json.loads(message.data)
            if "id" in event:
                self._replies.pop(event["id"]).set_result(event)
            elif event["method"] == "Log.entryAdded":
                self.console.append(event["params"]["entry"]["text"])
            elif event["method"] == "Runtime.exceptionThrown":
                self.console.append(str(event["params"]["exceptionDetails"]))

    async def command(self, method: str, **parameters: Any) -> Any:
        """The result of a command of the DevTools protocol."""
        number = next(self._numbers)
        self._replies[number] = reply = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        event = await reply
        if "error" in event:
            raise BrowserError(f"{method}: {event['error']}")
        return event["result"]

    async def open(self, url: str) -> None:
        """Opens a page, and waits until all of it is loaded."""
        result = await self.command("Page.navigate", url=url)
        if "errorText" in result:
            raise BrowserError(f"{url}: {result['errorText']}")
        await wait_until(lambda: self.run("document.readyState === 'complete'"))

    async def run(self, script: str) -> Any:
        """The value of an expression of JavaScript; of a promise, what it is resolved with."""
        result = await self.command(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in result:
            raise BrowserError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    async def type(self, selector: str, text: str) -> None:
        """Types into a field, as a user does."""
        await self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        await self.command("Input.insertText", text=text)

    async def press_enter(self) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.command(
                "Input.dispatchKeyEvent",
                type=kind,
                key="Enter",
                code="Enter",
                text="\r",
                windowsVirtualKeyCode=13,
            )

    async def resize(self, width: int, height: int) -> None:
        await self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    async def use_theme(self, theme: str) -> None:
        """``light`` or ``dark``."""
        feature = {"name": "prefers-color-scheme", "value": theme}
        await self.command("Emulation.setEmulatedMedia", features=[feature])

    async def disable_scripts(self) -> None:
        """Scripts of pages that are opened from now on do not run; those of `run` do."""
        await self.command("Emulation.setScriptExecutionDisabled", value=True)

    async def screenshot(self) -> bytes:
        """The whole page, as a PNG file."""
        result = await self.command(
            "Page.captureScreenshot", format="png", captureBeyondViewport=True
        )
        return base64.b64decode(result["data"])
