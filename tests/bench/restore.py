"""How fast a worker of ours restores what dead Python workers held, and how long it blocks the server.

`unacked` is filled with foreign deliveries that are past the visibility timeout. The time runs from the first restored
delivery to the last. Meanwhile the longest script and the longest wait of another client are measured. Run it with
`make bench`.
"""

import argparse
import pathlib
import sys
import time

from backlog import capture, running, wait_for
from meanwhile import meanwhile
from transport import Server, task_id

# Promises: seconds for 100,000 deliveries, and milliseconds for which the longest script holds the server.
MOST_SECONDS, MOST_HELD = 20, 5.0


def fill(server, template, count):
    raw, old = template
    server.client.flushall()
    for first in range(0, count, 1000):
        pipe = server.client.pipeline(transaction=False)
        for number in range(first, min(first + 1000, count)):
            tag = task_id(number)
            pipe.hset("unacked", tag, f'[{raw.replace(old, tag)}, "", "celery"]')
            pipe.zadd("unacked_index", {tag: 1000 + number / 1000})
        pipe.execute()


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--binaries", required=True, help="directory of test-worker")
    arguments.add_argument("--deliveries", type=int, default=100_000)
    options = arguments.parse_args()
    worker = [f"{pathlib.Path(options.binaries).resolve()}/test-worker", "-c", "4"]
    server = Server()
    try:
        template, _, _ = capture(server)
        fill(server, template, options.deliveries)
        server.client.config_set("slowlog-log-slower-than", 1000)
        server.client.slowlog_reset()
        server.client.config_resetstat()
        waits = []

        def ping(over):
            while not over.is_set():
                started = time.monotonic()
                server.client.ping()
                waits.append(time.monotonic() - started)
                time.sleep(0.001)

        server.environment = lambda plain=server.environment: {**plain(), "CELERY_VISIBILITY_TIMEOUT": "60"}
        with running(server, [worker]):
            wait_for("a restore", lambda: server.client.llen("celery") > 0)
            started = time.monotonic()
            with meanwhile(ping):
                wait_for("all", lambda: server.client.llen("celery") == options.deliveries, 3600)
                took = time.monotonic() - started
        first = server.client.lindex("celery", -1).decode()
        if task_id(0) not in first:
            sys.exit("the oldest delivery is not served first")
        scripts = server.client.info("commandstats")["cmdstat_evalsha"]["calls"]
        longest = max((one["duration"] / 1000 for one in server.client.slowlog_get(1000)
                       if one["command"].lower().startswith(b"evalsha")), default=0.0)
    finally:
        server.close()
    print(f"restored {options.deliveries:,} foreign deliveries in {took:.1f} s (promise for 100,000: {MOST_SECONDS} s) with "
          f"{scripts:,} scripts, the longest {longest:.1f} ms (promise: {MOST_HELD:.0f} ms), longest wait of another client "
          f"{max(waits) * 1000:.1f} ms")
    if took > MOST_SECONDS * options.deliveries / 100_000 or longest > MOST_HELD:
        sys.exit("a promise is not kept")


if __name__ == "__main__":
    main()
