"""The endpoint as a browser and the existing front end see it: python web_front_end.py ENDPOINT PRODUCTION ORIGIN_PORT.

ENDPOINT lets scripts of any origin read, PRODUCTION those of http://localhost:ORIGIN_PORT. Prints one JSON report.
"""

import asyncio
import http.client
import http.server
import json
import sys
import threading
import urllib.parse
import urllib.request

from browser import Browser
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Route

PATH = "/api/v1/symbols/spot"
FETCH = """
    fetch({url}, {options}).then(
        async answer => ({{status: answer.status, symbols: (await answer.json()).map(one => one.symbol)}}),
        error => ({{error: String(error)}})
    )
"""


class Origin(http.server.BaseHTTPRequestHandler):
    """An empty page: where the front end comes from."""

    def do_GET(self):
        page = b"<!doctype html><title>front end</title>"
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_):
        pass


def serve_origin(port):
    server = http.server.ThreadingHTTPServer(("localhost", port), Origin)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def serve_prefix(endpoint, prefix):
    """A proxy that has the endpoint under a prefix and nothing else."""

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            if path.removesuffix("/") != prefix:
                self.send_error(404)
                return
            with urllib.request.urlopen(endpoint + "/", timeout=30) as answer:
                page, headers = answer.read(), answer.headers
            self.send_response(200)
            for name in ("content-type", "content-security-policy", "cache-control"):
                self.send_header(name, headers[name])
            self.send_header("content-length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def existing(origins):
    """The existing system's middleware, with its settings."""

    async def symbols(_request):
        return JSONResponse([])

    app = Starlette(routes=[Route(PATH, symbols)])
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_credentials=True,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["Content-Disposition"],
    )


async def ask_app(app, method, headers):
    said = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        said.append(message)

    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": PATH, "raw_path": PATH.encode(),
        "query_string": b"", "root_path": "", "scheme": "http", "server": ("t", 80), "client": ("t", 1),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await app(scope, receive, send)
    answer = {name.decode().lower(): value.decode() for name, value in said[0]["headers"]}
    return said[0]["status"], answer, b"".join(part.get("body", b"") for part in said[1:])


def ask_endpoint(url, method, headers):
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=30)
    connection.request(method, PATH, headers=headers)
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


async def differences(endpoint, production, origin):
    """Where the endpoint and the middleware disagree.

    The endpoint answers with the request's origin where the middleware has `*`, which browsers reject with credentials, and
    exposes more headers.
    """
    found = []
    preflight = {"access-control-request-method": "GET"}
    requests = [
        ("GET", {}), ("GET", {"cookie": "a=b"}), ("HEAD", {}),
        ("OPTIONS", preflight),
        ("OPTIONS", preflight | {"access-control-request-headers": "authorization, x-thing"}),
        ("OPTIONS", {"access-control-request-method": "BREW"}),
        ("OPTIONS", {"access-control-request-method": "get"}),
    ]
    for url, origins in ((endpoint, ["*"]), (production, [origin])):
        app = existing(origins)
        for sender in (origin, "https://other.example", "null", None):
            for method, headers in requests:
                headers = headers | ({"origin": sender} if sender else {})
                theirs = await ask_app(app, method, headers)
                ours = await asyncio.to_thread(ask_endpoint, url, method, headers)
                if theirs[1].get("access-control-allow-origin") == "*":
                    theirs[1]["access-control-allow-origin"] = sender
                exposed = "access-control-expose-headers"
                if exposed in theirs[1] and theirs[1][exposed] in ours[1].get(exposed, "").split(", "):
                    theirs[1][exposed] = ours[1][exposed]
                part = lambda answer: {k: v for k, v in answer[1].items() if k.startswith("access-control-")}
                same = part(theirs) == part(ours)
                if sender and method == "OPTIONS":
                    same = same and theirs[0] == ours[0] and theirs[2] == ours[2]
                # Ours varies by more, never by less.
                names = lambda answer: {name.strip().lower() for name in answer[1].get("vary", "").split(",") if name}
                if not same or not names(theirs) <= names(ours):
                    found.append([url, method, headers, theirs[:2], ours[:2]])
    return found


async def fetch(page, url, **options):
    name = f"answer{abs(hash((url, str(options))))}"
    call = FETCH.format(url=json.dumps(url), options=json.dumps(options))
    await page.evaluate(f"window.{name} = null; {call}.then(answer => window.{name} = answer); 0")
    await page.until(f"window.{name}")
    return await page.evaluate(f"window.{name}")


async def browse(endpoint, production, origin):
    async with Browser() as page:
        await page.open(origin + "/")
        token = {"Authorization": "Bearer eyJhbGciOiJIUzUxMiJ9.e30.AAAA"}
        calls = {
            "plain": await fetch(page, endpoint + PATH),
            "token": await fetch(page, endpoint + PATH, headers=token),
            "production": await fetch(page, production + PATH, headers=token, credentials="include"),
        }
        await page.open(origin.replace("localhost", "127.0.0.1") + "/")
        calls["stranger"] = await fetch(page, production + PATH)
        refused = len(page.complaints)
        # A small phone.
        await page.command("Emulation.setDeviceMetricsOverride", width=320, height=640, deviceScaleFactor=2, mobile=True)
        await page.open(endpoint + "/")
        texts = "Object.fromEntries(Array.from(document.querySelectorAll('main [id]')).map(one => [one.id, one.innerText]))"
        figures = await page.evaluate(texts)
        state = await page.evaluate("""({
            lang: document.documentElement.lang,
            title: document.title,
            width: document.documentElement.scrollWidth,
            headings: Array.from(document.querySelectorAll('h1, h2')).map(one => one.innerText),
            named: Array.from(document.querySelectorAll('section')).every(one =>
                document.getElementById(one.getAttribute('aria-labelledby'))),
            columns: Array.from(document.querySelectorAll('th')).every(one => one.scope === 'col'),
            style: getComputedStyle(document.querySelector('dl')).display,
            loaded: performance.getEntriesByType('resource').map(one => one.name),
        })""")
        # The page brings itself up to date, under the prefix of a proxy and with a password in its URL as well.
        proxy = serve_prefix(endpoint, "/tb")
        for url in (endpoint + "/", proxy + "/tb/", proxy.replace("//", "//user:password@") + "/tb?x=1"):
            # Chromium leaves the password out of `location.href`.
            await page.command("Page.navigate", url=url)
            path = json.dumps(urllib.parse.urlsplit(url).path)
            await page.until(f"document.readyState === 'complete' && location.pathname === {path}")
            was = await page.evaluate("document.querySelector('footer').innerText")
            await page.until(f"document.querySelector('footer').innerText !== {json.dumps(was)}")
            old = await page.evaluate("document.getElementById('freshness').innerText")
            if old:
                page.complaints.append(f"{url}: {old}")
        return {
            "calls": calls, "figures": figures, "state": state, "complaints": page.complaints[refused:],
        }


async def main():
    endpoint, production, port = sys.argv[1:]
    origin = f"http://localhost:{port}"
    serve_origin(int(port))
    report = {
        "differences": await differences(endpoint, production, origin),
        "browser": await browse(endpoint, production, origin),
    }
    print(json.dumps(report))


asyncio.run(main())
