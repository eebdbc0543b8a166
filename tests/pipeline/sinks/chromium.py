"""A headless Chromium, told what to do over its debugging pipe."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import need_program


class Browser:
    """One tab.

    Attributes:
        complaints: what the console was told as a warning or an error, and exceptions that nobody caught.
    """

    def __init__(self, to: int, out: int) -> None:
        self._to, self._out = to, out
        self._held = b""
        self._number = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._number:
                assert "error" not in told, told
                result: dict[str, Any] = told["result"]
                return result
            self._note(told)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            more = os.read(self._out, 1 << 20)
            assert more, "the browser has ended"
            self._held += more
        line, _, self._held = self._held.partition(b"\0")
        told: dict[str, Any] = json.loads(line)
        return told

    def _note(self, told: dict[str, Any]) -> None:
        params = told.get("params", {})
        match told.get("method"):
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(str([each.get("value", each) for each in params["args"]]))
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def go(self, url: str) -> None:
        """Load a page."""
        told = self.call("Page.navigate", url=url)
        assert "errorText" not in told, told
        self.until("document.readyState === 'complete'")

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        told = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def until(self, expression: str, timeout: float = 20) -> Any:
        """Wait until an expression is true."""
        deadline = time.monotonic() + timeout
        while not (value := self.ask(expression)):
            assert time.monotonic() < deadline, f"{expression} did not become true: {self.complaints}"
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        """Click into the middle of an element, as a hand would."""
        box = self.ask(f"(r => [r.x + r.width / 2, r.y + r.height / 2])(document.querySelector({selector!r})"
                       ".getBoundingClientRect())")  # fmt: skip
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def picture(self, selector: str = "canvas") -> NDArray[np.uint8]:
        """What is seen of an element: H×W×3."""
        box = self.ask(f"(r => [r.x, r.y, r.width, r.height])(document.querySelector({selector!r})"
                       ".getBoundingClientRect())")  # fmt: skip
        clip = dict(zip(("x", "y", "width", "height"), box, strict=True), scale=1)
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png", clip=clip)["data"])
        return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def unexpected(tab: Browser) -> list[str]:
    """Complaints of something else than that the stream or its server has gone."""
    gone = r"ERR_CONNECTION_(REFUSED|RESET)|ERR_EMPTY_RESPONSE|404 .*/(info|frames|whep/\S+)$"
    return [said for said in tab.complaints if not re.search(gone, said)]


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with a profile of its own in ``folder``."""
    program = need_program("chromium")
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()

    process = subprocess.Popen(
        [
            "bash", "-c", f'exec "$0" "$@" 3<&{to_read} 4>&{from_write}',
            program, "--headless=new", "--window-size=1000,700",
            "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-extensions", "--disable-background-networking", "--ignore-certificate-errors",
            "--hide-scrollbars", f"--user-data-dir={folder}", "--remote-debugging-pipe",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(to_read, from_write),
        env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip
    os.close(to_read)
    os.close(from_write)
    try:
        yield Browser(to_write, from_read)
    finally:
        process.kill()
        process.wait(10)
        os.close(to_write)
        os.close(from_read)
