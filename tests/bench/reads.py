"""The HTTP endpoint beside nginx with a static file and beside the Python route it replaces, in one run.

The same list (about 37 kB) is served by `tradebot-symbols serve`, by nginx (sendfile, open_file_cache, gzip_static) and by
a FastAPI route that reads Redis and returns the parsed list. Each has one thread or process on one CPU, and wrk asks over
32 keep-alive connections. A shared machine changes its speed within minutes, so the servers take turns and only ratios
within a round count; the medians of these ratios are judged.

wrk runs on the server's CPU first and then on the other one. On one CPU a request costs the sum of both, so every saving
of a server shows. With a CPU each, wrk itself is the bottleneck, so those rates are printed and not judged.

The goal is the rate of plain hyper. hyper copies a body into the socket, where nginx sends the file's pages; with small
bodies it is faster than nginx. Run it with `make bench`; compare only numbers of the same run.
"""

import argparse
import collections
import contextlib
import gzip
import json
import os
import pathlib
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import redis

HERE = pathlib.Path(__file__).parent
PATH = "/api/v1/symbols/spot"
CONNECTIONS = 32
# Requests a second that are wanted, as a share of nginx's.
WANTED = {"identity": 0.75, "gzip": 1.15, "304": 0.9}
KINDS = tuple(WANTED)
# Requests a second that are wanted, over the FastAPI route's.
WANTED_OVER_FASTAPI = 200
Run = collections.namedtuple("Run", "rate p99 server client")
NGINX = """
worker_processes 1; daemon off; pid {home}/nginx.pid; error_log {home}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000000;
  open_file_cache max=100; types {{ application/json json; }}
  client_body_temp_path {home}/a; proxy_temp_path {home}/b; fastcgi_temp_path {home}/c;
  uwsgi_temp_path {home}/d; scgi_temp_path {home}/e;
  server {{ listen 127.0.0.1:{port}; root {home}; gzip_static on; }}
}}
"""


def a_list():
    symbol = lambda base: {"symbol": f"{base}USDT", "baseAsset": base, "quoteAsset": "USDT", "status": "TRADING"}
    # Names as long as the exchange's, and as random.
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    name = lambda n: "".join(letters[(n * step + step) % 26] for step in (7, 11, 17, 3)[: 3 + n % 2]) + str(n)
    return json.dumps([symbol(base) for base in ["BTC", "ETH", "BNB"] + [name(n) for n in range(395)]])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until_up(url, headers=None):
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=5) as answer:
                return dict(answer.headers.items()), answer.read()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextlib.contextmanager
def running(command, cpu=None, env=None):
    pinned = ["taskset", "-c", str(cpu)] if cpu is not None else []
    with open(os.devnull, "wb") as nowhere:
        process = subprocess.Popen(
            [*pinned, *map(str, command)], env={**os.environ, **(env or {})}, stdout=nowhere, stderr=nowhere
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=20)


def processor_seconds(process):
    """Of a process and its children."""
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    fields = [pathlib.Path("/proc", pid, "stat").read_text().rpartition(")")[2].split() for pid in [str(process.pid), *children]]
    return sum(int(stat[11]) + int(stat[12]) for stat in fields) / os.sysconf("SC_CLK_TCK")


def children_seconds():
    """Of the processes that were started and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def wrk(url, process, cpu, seconds, headers):
    """Requests a second, p99 in milliseconds, and what a request takes of the server's and of the client's processor."""
    command = ["taskset", "-c", str(cpu), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "--timeout", "30s"]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    before, client = processor_seconds(process), children_seconds()
    text = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
    client, spent = children_seconds() - client, processor_seconds(process) - before
    if "Non-2xx" in text or "Socket errors" in text:
        sys.exit(f"{url}: {text}")
    requests = int(re.search(r"(\d+) requests in", text)[1])
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
    p99, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", text).groups()
    p99 = float(p99) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]
    return Run(rate, p99, 1e6 * spent / requests, 1e6 * client / requests)


def measure(servers, kinds, rounds, seconds, cpu):
    """What each run of each server gave for each kind of request, round by round."""
    results = {}
    for number in range(rounds):
        for kind in kinds:
            for name, (url, process, headers) in sorted(servers.items(), reverse=number % 2 == 1):
                results.setdefault((name, kind), []).append(wrk(url, process, cpu, seconds, headers[kind]))
    return results


def compare(results, kinds, judged):
    """Prints the figures and, if they are judged, returns the kinds of requests whose ratio is below the wanted one."""
    for (name, kind), runs in results.items():
        run = Run(*map(statistics.median, zip(*runs)))
        print(f"  {name:<8} {kind:<9} {run.rate:>10.0f} requests/s, p99 {run.p99:.2f} ms, "
              f"{run.server:.2f} µs of the processor each, and {run.client:.2f} µs of wrk's")
    missed = []
    for kind in kinds:
        rounds = list(zip(results["serve", kind], results["nginx", kind]))
        for column, what in (("rate", "requests/s"), ("p99", "p99"), ("server", "processor time")):
            ratios = [getattr(ours, column) / getattr(theirs, column) for ours, theirs in rounds]
            low, middle, high = statistics.quantiles(ratios, method="inclusive")
            wanted = f", wanted ≥ {WANTED[kind]}" if judged and column == "rate" else ""
            print(f"  {what} over nginx's, {kind}: {middle:.3f} (quartiles {low:.3f} to {high:.3f}{wanted})")
            if wanted and middle < WANTED[kind]:
                missed.append(f"{what}, {kind}")
    return missed


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--binaries", type=pathlib.Path, required=True)
    arguments.add_argument("--rounds", type=int, default=10)
    arguments.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    arguments.add_argument("--seconds", type=int, default=2)
    options = arguments.parse_args()
    for program in ("nginx", "wrk", "redis-server", "taskset"):
        if not shutil.which(program):
            sys.exit(f"{program} is not installed: run `make setup`")
    server_cpu, client_cpu = sorted(os.sched_getaffinity(0))[:2]
    text = a_list()
    with contextlib.ExitStack() as stack:
        home = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.chmod(home, 0o755)
        ports = {name: free_port() for name in ("redis", "serve", "nginx", "fastapi")}
        (home / "list.json").write_text(text)
        (home / "list.json.gz").write_bytes(gzip.compress(text.encode(), 9))
        (home / "nginx.conf").write_text(NGINX.format(home=home, port=ports["nginx"]))
        url = f"redis://127.0.0.1:{ports['redis']}/0"
        stack.enter_context(running(["redis-server", "--port", ports["redis"], "--save", "", "--dir", home]))
        db = redis.Redis.from_url(url, retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.1), 100))
        for key in ("cache:symbols:spot:v1", "cache:symbols:spot:last_good"):
            db.set(key, text, ex=86400)
        db.set("metrics:spot_symbols_cache:last_refresh_ts", int(time.time()))
        nowhere = "http://127.0.0.1:1"
        env = {"REDIS_URL": url, "CELERY_BROKER_URL": url, "BINANCE_SPOT_BASE_URL": nowhere,
               "BINANCE_FUTURES_BASE_URL": nowhere, "LOG_LEVEL": "ERROR"}
        serve = [options.binaries / "tradebot-symbols", "serve", "--listen", f"127.0.0.1:{ports['serve']}", "--threads", 1]
        processes = {"serve": stack.enter_context(running(serve, server_cpu, env))}
        processes["nginx"] = stack.enter_context(running(["nginx", "-c", home / "nginx.conf"], server_cpu))
        uvicorn = [sys.executable, "-m", "uvicorn", "--app-dir", HERE, "existing_route:app", "--port", ports["fastapi"],
                   "--log-level", "error", "--no-access-log"]
        processes["fastapi"] = stack.enter_context(running(uvicorn, server_cpu, env))
        urls = {
            "serve": f"http://127.0.0.1:{ports['serve']}{PATH}",
            "nginx": f"http://127.0.0.1:{ports['nginx']}/list.json",
            "fastapi": f"http://127.0.0.1:{ports['fastapi']}{PATH}",
        }
        servers = {}
        for name in ("serve", "nginx"):
            headers, body = until_up(urls[name])
            assert body.decode() == text, f"{name} serves something else"
            deadline = time.monotonic() + 10
            while True:
                packed, _ = until_up(urls[name], {"Accept-Encoding": "gzip"})
                if packed.get("Content-Encoding", packed.get("content-encoding")) == "gzip":
                    break
                assert time.monotonic() < deadline, f"{name} does not pack"
                time.sleep(0.1)
            tag = headers.get("ETag") or headers["etag"]
            servers[name] = urls[name], processes[name], {"identity": {}, "gzip": {"Accept-Encoding": "gzip"}, "304": {"If-None-Match": tag}}
        _, body = until_up(urls["fastapi"])
        assert json.loads(body) == json.loads(text), "the FastAPI route serves something else"
        print(f"{len(text)} bytes, {CONNECTIONS} connections, one thread or process each, medians of {options.rounds} rounds")
        missed = []
        for place, cpu, judged in (
            ("on the same CPU", server_cpu, True),
            ("on a CPU each", client_cpu, False),
        ):
            print(f"server and client {place}")
            results = measure(servers, options.kinds, options.rounds, options.seconds, cpu)
            missed += [f"{what} {place}" for what in compare(results, options.kinds, judged)]
        existing = {"fastapi": (urls["fastapi"], processes["fastapi"], {"identity": {}})}
        existing = measure(existing, ("identity",), 2, options.seconds, client_cpu)["fastapi", "identity"]
    if "identity" in options.kinds:
        ours, theirs = (statistics.median(run.rate for run in runs) for runs in (results["serve", "identity"], existing))
        print(f"requests/s over the FastAPI route's {theirs:.0f}: {ours / theirs:.0f} (wanted ≥ {WANTED_OVER_FASTAPI})")
        if ours < WANTED_OVER_FASTAPI * theirs:
            missed.append("requests/s over the FastAPI route's")
    if missed:
        sys.exit("below what is wanted: " + "; ".join(missed))


if __name__ == "__main__":
    main()
