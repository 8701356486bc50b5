"""How long readers of the HTTP endpoint wait while its Redis is in trouble.

`tradebot-symbols serve`, warm, with lists that live for two seconds, is asked over 32 keep-alive connections while its
Redis is well, stopped (SIGSTOP), gone (SIGKILL), full (maxmemory), and flushed ten times a second. In each case,
every answer must be 200, and 99 of 100 must arrive within 50 ms. Run it with `make bench`.
"""

import argparse
import contextlib
import os
import pathlib
import signal
import sys
import tempfile

import redis

from meanwhile import meanwhile
from reads import PATH, free_port, running, until_up, wrk

WANTED_MS = 50


def server(ports, home):
    return running(["redis-server", "--port", ports["redis"], "--save", "", "--dir", home, "--maxmemory-policy", "noeviction"])


@contextlib.contextmanager
def well(process, db):
    yield


@contextlib.contextmanager
def stopped(process, db):
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def full(process, db):
    db.config_set("maxmemory", 1)
    try:
        yield
    finally:
        db.config_set("maxmemory", 0)


@contextlib.contextmanager
def flushed(process, db):
    def flush(over):
        while not over.wait(0.1):
            db.flushall()

    with meanwhile(flush):
        yield


@contextlib.contextmanager
def gone(process, db):
    process.kill()
    process.wait()
    yield


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--binaries", type=pathlib.Path, required=True)
    arguments.add_argument("--seconds", type=int, default=5)
    options = arguments.parse_args()
    server_cpu, client_cpu = sorted(os.sched_getaffinity(0))[:2]
    program = options.binaries / "tradebot-symbols"
    missed = []
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        ports = {name: free_port() for name in ("redis", "sandbox", "serve")}
        broken = stack.enter_context(server(ports, home))
        stack.enter_context(running([program, "sandbox", "--listen", f"127.0.0.1:{ports['sandbox']}"]))
        exchange = f"http://127.0.0.1:{ports['sandbox']}"
        until_up(f"{exchange}/api/v3/ping")
        redis_url = f"redis://127.0.0.1:{ports['redis']}/0"
        db = redis.Redis.from_url(redis_url, retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.1), 100))
        serve = stack.enter_context(
            running(
                [program, "serve", "--listen", f"127.0.0.1:{ports['serve']}", "--threads", "1"],
                server_cpu,
                {
                    "REDIS_URL": redis_url,
                    "CELERY_BROKER_URL": redis_url,
                    "CELERY_RESULT_BACKEND": redis_url,
                    "BINANCE_SPOT_BASE_URL": exchange,
                    "BINANCE_FUTURES_BASE_URL": exchange,
                    "SPOT_SYMBOLS_CACHE_TTL_SECONDS": "2",
                    "FUTURES_SYMBOLS_CACHE_TTL_SECONDS": "2",
                },
            )
        )
        url = f"http://127.0.0.1:{ports['serve']}{PATH}"
        until_up(url)
        print(f"{'Redis':10} {'requests/s':>12} {'p99':>10}   wanted: < {WANTED_MS} ms, and nothing but 200")
        # The last one is not mended again.
        for fault in (well, stopped, full, flushed, gone):
            with fault(broken, db):
                rate, p99, *_ = wrk(url, serve, client_cpu, options.seconds, {})
            verdict = "" if p99 < WANTED_MS else "   MISSED"
            print(f"{fault.__name__:10} {rate:12,.0f} {p99:7.2f} ms{verdict}", flush=True)
            if verdict:
                missed.append(fault.__name__)
    if missed:
        sys.exit(f"readers wait too long while Redis is {', '.join(missed)}")


if __name__ == "__main__":
    main()
