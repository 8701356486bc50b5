"""CPU time and memory of a warm-up of a 15 MB answer, beside Python's json doing the same.

An exchange on this machine gives a spot list of the size and shape of late 2026, permission sets and all, compressed.
Our worker runs warm-ups of it; a Python process fetches it as often, reads it with `json`, filters, sorts and writes the
same keys. The comparison covers the CPU time per warm-up, without start-up, and the peak memory of each process. The last
line is JSON. Run it with `make bench`.
"""

import argparse
import gzip
import http.server
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid

import redis

SYMBOLS = 3300
PERMISSION_SETS = 215
TASK = "app.core.cache_warmup_tasks.warmup_spot_symbols_cache"
POPULAR = "BTC ETH BNB SOL ADA AVAX DOT MATIC LINK UNI".split()
TICKS = os.sysconf("SC_CLK_TCK")


def answer():
    filters = [
        {"filterType": "PRICE_FILTER", "minPrice": "0.01000000", "maxPrice": "1000000.00000000", "tickSize": "0.01000000"},
        {"filterType": "LOT_SIZE", "minQty": "0.00001000", "maxQty": "9000.00000000", "stepSize": "0.00001000"},
        {"filterType": "ICEBERG_PARTS", "limit": 10},
        {"filterType": "MARKET_LOT_SIZE", "minQty": "0.00000000", "maxQty": "83.28119347", "stepSize": "0.00000000"},
        {"filterType": "TRAILING_DELTA", "minTrailingAboveDelta": 10, "maxTrailingAboveDelta": 2000},
        {"filterType": "PERCENT_PRICE_BY_SIDE", "bidMultiplierUp": "5", "bidMultiplierDown": "0.2", "avgPriceMins": 5},
        {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True, "avgPriceMins": 5},
        {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200},
    ]
    permissions = ["SPOT", "MARGIN"] + [f"TRD_GRP_{n:03}" for n in range(4, 4 + PERMISSION_SETS)]
    bases = POPULAR + [f"COIN{n}" for n in range(SYMBOLS)]
    symbols = []
    for number in range(SYMBOLS):
        base, quote = bases[number // 3], ("USDT", "BTC", "EUR")[number % 3]
        symbols.append({
            "symbol": base + quote, "status": "TRADING" if number % 7 or number < 60 else "BREAK", "baseAsset": base,
            "baseAssetPrecision": 8, "quoteAsset": quote, "quotePrecision": 8, "quoteAssetPrecision": 8,
            "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT"],
            "icebergAllowed": True, "ocoAllowed": True, "otoAllowed": True, "isSpotTradingAllowed": True,
            "isMarginTradingAllowed": True, "filters": filters, "permissions": [], "permissionSets": [permissions],
            "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
            "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH", "DECREMENT"]})
    document = {"timezone": "UTC", "serverTime": int(time.time() * 1000), "rateLimits": [], "exchangeFilters": [],
                "symbols": symbols}
    return json.dumps(document, separators=(",", ":")).encode()


def serve(body):
    packed = gzip.compress(body, 6)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "application/json;charset=UTF-8")
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(packed)))
            self.end_headers()
            self.wfile.write(packed)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def cpu(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_mb(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM")


def python_warmup(exchange, db):
    request = urllib.request.Request(f"{exchange}/api/v3/exchangeInfo", headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request, timeout=10) as response:
        document = json.loads(gzip.decompress(response.read()))
    fields = ("symbol", "baseAsset", "quoteAsset", "status")
    symbols = [{field: symbol[field] for field in fields} for symbol in document["symbols"]
               if symbol["status"] == "TRADING" and symbol["quoteAsset"] == "USDT"]
    first = [symbol for base in POPULAR for symbol in symbols if symbol["baseAsset"] == base]
    rest = sorted((symbol for symbol in symbols if symbol["baseAsset"] not in POPULAR), key=lambda it: it["symbol"])
    text = json.dumps(first + rest)
    db.set("python:spot:v1", text, ex=300)
    db.set("python:spot:last_good", text)
    db.set("python:last_refresh_ts", json.dumps(int(time.time())))
    db.incr("python:success")
    return text


def python_side(exchange, url, runs):
    """Runs in a separate process; prints CPU seconds per warm-up and peak memory."""
    db = redis.Redis.from_url(url)
    python_warmup(exchange, db)
    before = cpu(os.getpid())
    for _ in range(runs):
        python_warmup(exchange, db)
    print(json.dumps([(cpu(os.getpid()) - before) / runs, peak_mb(os.getpid())]))


def message(task_id):
    headers = {"lang": "py", "task": TASK, "id": task_id, "root_id": task_id, "parent_id": None, "group": None,
               "retries": 0, "eta": None, "expires": None, "timelimit": [None, None], "argsrepr": "()",
               "kwargsrepr": "{}", "origin": "bench@here", "ignore_result": False}
    properties = {"correlation_id": task_id, "reply_to": str(uuid.uuid4()), "delivery_mode": 2, "priority": 0,
                  "delivery_info": {"exchange": "", "routing_key": "celery"}, "body_encoding": "base64",
                  "delivery_tag": str(uuid.uuid4())}
    body = "W1tdLCB7fSwgeyJjYWxsYmFja3MiOiBudWxsLCAiZXJyYmFja3MiOiBudWxsLCAiY2hhaW4iOiBudWxsLCAiY2hvcmQiOiBudWxsfV0="
    return json.dumps({"body": body, "content-encoding": "utf-8", "content-type": "application/json",
                       "headers": headers, "properties": properties})


def run_ours(db, runs):
    for _ in range(runs):
        task_id = str(uuid.uuid4())
        db.lpush("celery", message(task_id))
        deadline = time.monotonic() + 30
        while True:
            result = db.get(f"celery-task-meta-{task_id}")
            if result and json.loads(result)["status"] == "SUCCESS":
                break
            if time.monotonic() > deadline:
                sys.exit(f"no success of a warm-up: {result}")
            time.sleep(0.005)


def our_side(binary, exchange, url, db, runs):
    environment = {**os.environ, "REDIS_URL": url, "CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url,
                   "BINANCE_SPOT_BASE_URL": exchange}
    worker = subprocess.Popen([binary, "worker", "--loglevel", "warning"], env=environment)
    try:
        run_ours(db, 1)
        before = cpu(worker.pid)
        run_ours(db, runs)
        return (cpu(worker.pid) - before) / runs, peak_mb(worker.pid)
    finally:
        worker.terminate()
        worker.wait(20)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binaries", type=pathlib.Path, required=True)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--python-side", nargs=2)
    arguments = parser.parse_args()
    if arguments.python_side:
        python_side(*arguments.python_side, arguments.runs)
        return
    body = answer()
    exchange = serve(body)
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    with tempfile.TemporaryDirectory() as directory:
        server = subprocess.Popen(["redis-server", "--port", str(port), "--save", "", "--dir", directory],
                                  stdout=subprocess.DEVNULL)
        try:
            db = redis.Redis.from_url(url)
            while True:
                try:
                    db.ping()
                    break
                except redis.ConnectionError:
                    time.sleep(0.05)
            ours, our_peak = our_side(arguments.binaries / "tradebot-symbols", exchange, url, db, arguments.runs)
            command = [sys.executable, __file__, "--binaries", str(arguments.binaries), "--runs", str(arguments.runs),
                       "--python-side", exchange, url]
            theirs, their_peak = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            same = db.get("cache:symbols:spot:v1") == db.get("python:spot:v1")
        finally:
            server.terminate()
            server.wait(10)
    if not same:
        sys.exit("the two lists differ")
    ratio = theirs / ours
    print(f"warm-up of {len(body) / 1e6:.1f} MB: {ours * 1000:.1f} ms of CPU and {our_peak:.0f} MB at most, "
          f"Python {theirs * 1000:.1f} ms and {their_peak:.0f} MB: {ratio:.1f} times less CPU")
    print(json.dumps({"body_mb": round(len(body) / 1e6, 1), "cpu_ms": round(ours * 1000, 1), "peak_mb": round(our_peak),
                      "python_cpu_ms": round(theirs * 1000, 1), "python_peak_mb": round(their_peak),
                      "cpu_ratio": round(ratio, 1)}))


if __name__ == "__main__":
    main()
