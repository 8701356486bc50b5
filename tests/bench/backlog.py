"""Measures how much two idle workers of ours slow down a Python worker with a long backlog on the shared queue.

Each length of the backlog is measured on one private Redis, in turn without and with our two workers: how fast a Python
worker drains its no-op tasks, and how fast a Python producer sends more. A second part pushes 20 foreign messages per
second while our workers run. It measures their share of the server's time, and how soon a task of ours starts behind the
backlog. Run it with `make bench`; compare only numbers of the same run.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time
import uuid

from transport import HERE, Server, task_id

PUSHES_PER_SECOND = 20
# Promises: the time with our workers over the time without, our share of the server's time, seconds to a start.
MOST_DRAIN, MOST_SHARE = 1.05, 0.02
MOST_START = {1_000_000: 3.0}


def capture(server):
    """A foreign message and one of ours, as Python sends them, and a producer of foreign ones."""
    sys.path.insert(0, str(HERE))
    os.environ.update({k: v for k, v in server.environment().items() if k.startswith(("CELERY", "REDIS"))})
    import backlog_app
    import peer_app

    def template(task):
        task.delay()
        raw = server.client.rpop("celery").decode()
        message = json.loads(raw)
        old = message["headers"]["id"]
        return raw.replace(message["properties"]["delivery_tag"], old), old

    return template(backlog_app.noop), template(peer_app.noop), backlog_app.noop


def fill(server, template, count):
    raw, old = template
    server.client.flushall()
    for first in range(0, count, 1000):
        numbers = range(first, min(first + 1000, count))
        server.client.lpush("celery", *(raw.replace(old, task_id(number)) for number in numbers))


@contextlib.contextmanager
def running(server, commands):
    environment = {**server.environment(), "LOG_LEVEL": "WARNING"}
    workers = [subprocess.Popen(command, env=environment, cwd=HERE, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL) for command in commands]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        for worker in workers:
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def wait_for(what, condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not within {seconds} s")
        time.sleep(0.002)


def settled(server, ours):
    """Our workers have their leases and have looked at the queue for the first time."""
    wait_for("our workers", lambda: server.client.hlen("tradebot-symbols:workers") == len(ours))
    time.sleep(2)


def drain(server, python, ours, tasks):
    """Seconds in which a Python worker takes so many of its tasks, the first hundred not counted."""
    with running(server, ours):
        settled(server, ours)
        start = server.client.llen("celery")
        with running(server, [python]):
            wait_for("a Python worker", lambda: server.client.llen("celery") <= start - 100)
            started, from_there = time.monotonic(), server.client.llen("celery")
            wait_for("the drain", lambda: server.client.llen("celery") <= max(0, from_there - tasks), 600)
            return (time.monotonic() - started) / min(tasks, from_there) * tasks


def produce(server, producer, ours, messages):
    """Seconds in which a Python producer sends so many messages."""
    with running(server, ours):
        settled(server, ours)
        started = time.monotonic()
        for _ in range(messages):
            producer.delay()
        return time.monotonic() - started


def pushing(server, foreign, seconds):
    """The server's processor time per second at a steady rate of pushes. Unlike the times it notes of commands, this does
    not grow while other programs have the processor."""
    def used():
        cpu = server.client.info("cpu")
        return cpu["used_cpu_user"] + cpu["used_cpu_sys"]

    before, began, pushed = used(), time.monotonic(), 0
    while time.monotonic() - began < seconds:
        server.client.lpush("celery", foreign[0].replace(foreign[1], str(uuid.uuid4())))
        pushed += 1
        time.sleep(max(0.0, began + pushed / PUSHES_PER_SECOND - time.monotonic()))
    return (used() - before) / (time.monotonic() - began)


def watch(server, foreign, mine, ours, seconds):
    """Our share of the server's time at a steady rate of pushes, our longest script in ms, and seconds until each of some
    tasks of ours has ended."""
    alone = pushing(server, foreign, seconds)
    with running(server, ours):
        settled(server, ours)
        server.client.config_set("slowlog-log-slower-than", 1000)
        server.client.slowlog_reset()
        share = pushing(server, foreign, seconds) - alone
        slow = [one["duration"] / 1000 for one in server.client.slowlog_get(1000)
                if one["command"].lower().startswith(b"evalsha")]
        waits = []
        for _ in range(5):
            server.client.lpush("celery", foreign[0].replace(foreign[1], str(uuid.uuid4())))
            task = str(uuid.uuid4())
            started = time.monotonic()
            server.client.lpush("celery", mine[0].replace(mine[1], task))
            wait_for("a task of ours", lambda: server.client.exists(f"celery-task-meta-{task}"), 60)
            waits.append(time.monotonic() - started)
            time.sleep(0.3)
        return share, max(slow, default=0.0), max(waits)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--binaries", required=True, help="directory of test-worker")
    arguments.add_argument("--backlogs", default="3000,20000,1000000", help="foreign messages that wait")
    arguments.add_argument("--drained", type=int, default=2_500, help="tasks that the Python worker is timed for")
    arguments.add_argument("--sent", type=int, default=1_000, help="messages that the producer is timed for")
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    worker = f"{pathlib.Path(options.binaries).resolve()}/test-worker"
    ours = [[worker, "-c", "4", "-n", f"ours{number}@bench"] for number in (1, 2)]
    python = [sys.executable, "-m", "celery", "-A", "backlog_app", "worker", "-c", "2", "-P", "prefork", "-l", "ERROR",
              "--without-gossip", "--without-mingle"]
    server, kept = Server(), True
    try:
        foreign, mine, producer = capture(server)
        for backlog in (int(text) for text in options.backlogs.split(",")):
            drains, sends = {"without": [], "with": []}, {"without": [], "with": []}
            for number in range(options.rounds):
                order = [("without", []), ("with", ours)]
                for name, company in order if number % 2 == 0 else reversed(order):
                    fill(server, foreign, backlog)
                    sends[name].append(produce(server, producer, company, options.sent))
                    drains[name].append(drain(server, python, company, options.drained))
            drained, sent = (statistics.median(one["with"]) / statistics.median(one["without"]) for one in (drains, sends))
            fill(server, foreign, backlog)
            share, longest, start = watch(server, foreign, mine, ours, 15)
            most_start = MOST_START.get(backlog, 1.0)
            kept = kept and drained <= MOST_DRAIN and sent <= MOST_DRAIN and share <= MOST_SHARE and start <= most_start
            print(f"{backlog:>9,} foreign: drain {drained:.3f}, producer {sent:.3f} of the time without (promise: "
                  f"{MOST_DRAIN}), at {PUSHES_PER_SECOND} pushes/s {share:.2%} of the server's time (promise: "
                  f"{MOST_SHARE:.0%}), longest script {longest:.1f} ms, ours ended within {start:.2f} s (promise: "
                  f"{most_start:.0f} s)", flush=True)
            print(f"{'':>9} each round, seconds: drain {drains}, producer {sends}", flush=True)
    finally:
        server.close()
    if not kept:
        sys.exit("a promise is not kept")


if __name__ == "__main__":
    main()
