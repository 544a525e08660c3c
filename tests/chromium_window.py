"""A real browser for tests of pages: Chromium, driven by its DevTools protocol over aiohttp."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
START_S = 60


class Browser:
    """One window.

    Attributes:
        errors: what the page wrote to the console as an error, and exceptions that nothing caught.

    Args:
        folder: for the browser's profile.
        width, height: of the window, pixels.
        dark: whether the system's colours are dark ones.
    """

    def __init__(self, folder: Path, width: int, height: int = 1000, dark: bool = False) -> None:
        assert CHROMIUM is not None
        self.errors: list[str] = []
        self._log = (folder / "chromium.log").open("w+")
        self._process = subprocess.Popen(
            [
                CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--remote-debugging-port=0", "--no-first-run", "--hide-scrollbars",
                f"--user-data-dir={folder / 'profile'}", "about:blank",
            ],
            stderr=self._log,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self._loop = asyncio.new_event_loop()
        self._numbers = itertools.count()
        try:
            self._socket = self._run(self._connect())
            for method in ("Page.enable", "Runtime.enable", "Log.enable"):
                self.call(method)
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
            self.call("Emulation.setDeviceMetricsOverride", **metrics)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            self.call("Emulation.setEmulatedMedia", features=[scheme])
        except BaseException:
            self.close()
            raise

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def evaluate(self, code: str) -> Any:
        """The value of a piece of JavaScript."""
        result = self.call("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, code: str, timeout_s: float = 30) -> Any:
        """The value of a piece of JavaScript once it is true, and what it speaks of is there."""
        deadline = time.monotonic() + timeout_s
        while not (
            value := self.evaluate(f"(() => {{ try {{ return {code} }} catch {{ return false }} }})()")
        ):
            assert time.monotonic() < deadline, f"never: {code}\n{self.evaluate('document.body.innerText')}"
            time.sleep(0.1)
        return value

    def screenshot(self, path: Path, whole: bool = True) -> Path:
        """A PNG of the page, `whole` or as far as it is in the window."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._run(self._call(method, params))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        if hasattr(self, "_socket"):
            self._run(self._session.close())
        self._loop.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self, waits: Any) -> Any:
        return self._loop.run_until_complete(waits)

    async def _connect(self) -> aiohttp.ClientWebSocketResponse:
        deadline = time.monotonic() + START_S
        while not (found := re.search(r"listening on ws://([\d.:]+)/", Path(self._log.name).read_text())):
            is_late = time.monotonic() > deadline or self._process.poll() is not None
            assert not is_late, Path(self._log.name).read_text()
            await asyncio.sleep(0.05)
        self._session = aiohttp.ClientSession()
        while True:
            async with self._session.get(f"http://{found[1]}/json/list") as answer:
                pages = [each for each in await answer.json() if each["type"] == "page"]
            if pages:
                return await self._session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0)
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = json.loads((await self._socket.receive(timeout=START_S)).data)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            said = message.get("params", {})
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(said["exceptionDetails"]))
            elif message.get("method") == "Log.entryAdded" and said["entry"]["level"] == "error":
                self.errors.append(said["entry"]["text"])
