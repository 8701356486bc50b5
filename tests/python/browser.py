"""A headless Chromium, driven over its DevTools protocol."""

import asyncio
import json
import pathlib
import subprocess
import tempfile
import time

from tornado.websocket import websocket_connect

PATIENCE = 60
# Without a sandbox, because root has none in Chromium; it sees nothing but the test's own pages.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0"]


class Browser:
    """One page; `async with Browser() as page`."""

    async def __aenter__(self):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        try:
            self.process = subprocess.Popen(
                ["chromium-headless-shell", *ARGUMENTS, f"--user-data-dir={self.profile.name}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except FileNotFoundError:
            raise SystemExit("chromium-headless-shell is not installed: run `make setup`") from None
        self.answers, self.number, self.complaints = {}, 0, []
        address = await self.address()
        self.socket = await websocket_connect(address, max_message_size=1 << 26)
        self.reader = asyncio.ensure_future(self.read())
        self.session = None
        target = await self.command("Target.createTarget", url="about:blank")
        attached = await self.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            await self.command(f"{domain}.enable")
        return self

    async def __aexit__(self, *_):
        self.socket.close()
        self.process.kill()
        self.process.wait()
        self.profile.cleanup()

    async def address(self):
        """Chromium says in a file where it listens: the port, and the path behind it."""
        deadline = time.monotonic() + PATIENCE
        said = pathlib.Path(self.profile.name, "DevToolsActivePort")
        while not said.exists() or len(said.read_text().splitlines()) < 2:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("chromium-headless-shell does not start")
            await asyncio.sleep(0.02)
        port, path = said.read_text().splitlines()
        return f"ws://127.0.0.1:{port}{path}"

    async def read(self):
        while (text := await self.socket.read_message()) is not None:
            message = json.loads(text)
            if message.get("id") in self.answers:
                self.answers.pop(message["id"]).set_result(message)
            elif message.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(message["params"]["exceptionDetails"]["text"])
            elif message.get("method") == "Network.responseReceived":
                response = message["params"]["response"]
                if response["status"] >= 400:
                    self.complaints.append(f"{response['status']} {response['url']}")

    async def command(self, method, **params):
        self.number += 1
        order = {"id": self.number, "method": method, "params": params}
        if self.session:
            order["sessionId"] = self.session
        answer = self.answers[self.number] = asyncio.get_running_loop().create_future()
        await self.socket.write_message(json.dumps(order))
        answer = await asyncio.wait_for(answer, PATIENCE)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    async def evaluate(self, expression):
        answer = await self.command("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def open(self, url):
        await self.command("Page.navigate", url=url)
        path = json.dumps(url)
        await self.until(f"document.readyState === 'complete' && location.href === {path}")

    async def until(self, expression):
        """Waits until the expression is true, and returns its value."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if value := await self.evaluate(expression):
                    return value
            except RuntimeError:
                # The page is on its way to another one.
                pass
            if time.monotonic() > deadline:
                text = await self.evaluate("document.body.innerText")
                raise SystemExit(f"not so in the browser: {expression}\n{self.complaints}\n{text}")
            await asyncio.sleep(0.05)
