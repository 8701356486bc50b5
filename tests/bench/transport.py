"""Throughput and latency of the worker, each as a ratio against a peer in the same run.

Drains queues of no-op tasks (late ack, results on) with our worker, with Python Celery (prefork, two
processes) and with stock rusty-celery, in turn on one private Redis, and compares with the floor: the same Redis
commands in a loop on the server. Our worker is also compared with itself: without and with task events and remote control,
and with few and many tasks queued. Run it with `make bench`; compare only numbers of the same run.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid

import redis

from meanwhile import meanwhile

HERE = pathlib.Path(__file__).parent
# What our worker is compared with itself in is measured so many times a round.
REPEATS = 3
# Of a queue of any length so many tasks are timed.
TIMED = 1000
PING_SECONDS = 0.2
FLOOR = """
local n = tonumber(ARGV[1])
for i = 1, n do
  local raw = redis.call('RPOP', KEYS[1])
  local tag = 'floor-' .. i
  redis.call('HSET', KEYS[2], tag, raw)
  redis.call('ZADD', KEYS[3], i, tag)
  local key = 'celery-task-meta-floor-' .. i
  redis.call('GET', key)
  redis.call('SET', key, ARGV[2], 'EX', 86400)
  redis.call('PUBLISH', key, ARGV[2])
  redis.call('HDEL', KEYS[2], tag)
  redis.call('ZREM', KEYS[3], tag)
end
return n
"""
RESULT = json.dumps({"status": "SUCCESS", "result": None, "traceback": None, "children": [],
                     "date_done": "2026-11-23T10:38:06.712300+00:00", "task_id": str(uuid.uuid4())})


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A private redis-server."""

    def __init__(self):
        self.port, self.directory = free_port(), tempfile.mkdtemp()
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                   "--appendonly", "no", "--dir", self.directory]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.client = redis.Redis(port=self.port, socket_timeout=600)
        for _ in range(200):
            try:
                self.client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.02)
        sys.exit("redis-server does not start")

    def close(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def environment(self):
        url = f"redis://127.0.0.1:{self.port}/0"
        return {**os.environ, "CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url, "REDIS_URL": url,
                "LOG_LEVEL": "ERROR"}


def capture(server):
    """A message as Python sends it, for copying: with its id for the delivery tag, too."""
    sys.path.insert(0, str(HERE))
    os.environ.update({k: v for k, v in server.environment().items() if k.startswith(("CELERY", "REDIS"))})
    import peer_app
    peer_app.noop.delay()
    raw = server.client.rpop("celery").decode()
    message = json.loads(raw)
    task = message["headers"]["id"]
    return raw.replace(message["properties"]["delivery_tag"], task), task


def task_id(number):
    return f"00000000-0000-4000-8000-{number:012}"


def fill(server, template, count):
    """Queues `count` copies, each with the id of its number in the order in which they are to be taken."""
    raw, old = template
    server.client.flushall()
    for first in range(0, count, 1000):
        numbers = range(first, min(first + 1000, count))
        server.client.lpush("celery", *(raw.replace(old, task_id(number)) for number in numbers))


def cpu_seconds(pid):
    """User and system time of a process and its children, from /proc."""
    ticks, total = os.sysconf("SC_CLK_TCK"), 0.0
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        own = int(stat.parent.name)
        if own == pid or int(fields[1]) == pid:
            total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def rss_mb(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


@contextlib.contextmanager
def pinging(pings):
    """Asks all workers with `ping` again and again, and notes of each time whether one answered."""
    import peer_app

    def ping(over):
        while not over.is_set():
            started = time.monotonic()
            pings.append(bool(peer_app.app.control.ping(timeout=5, limit=1)))
            over.wait(max(0.0, PING_SECONDS - (time.monotonic() - started)))

    with meanwhile(ping):
        yield


def drain(server, template, command, count, unacked=True, pings=None):
    """Tasks per second from the first message taken to the last one acknowledged, CPU per task in µs, and MB."""
    fill(server, template, count)
    said = tempfile.TemporaryFile()
    worker = subprocess.Popen(command, env={**server.environment(), "LOG_LEVEL": "WARNING"}, cwd=HERE,
                              stdout=subprocess.DEVNULL, stderr=said)
    try:
        deadline = time.monotonic() + 300
        while server.client.llen("celery") == count:
            if time.monotonic() > deadline or worker.poll() is not None:
                sys.exit(f"{command[0]} takes nothing")
            time.sleep(0.001)
        taken = count - server.client.llen("celery")
        started, cpu = time.monotonic(), cpu_seconds(worker.pid)
        with contextlib.nullcontext() if pings is None else pinging(pings):
            while server.client.llen("celery") or (unacked and server.client.hlen("unacked")):
                if time.monotonic() > deadline:
                    sys.exit(f"{command[0]} does not finish")
                time.sleep(0.005)
            elapsed = time.monotonic() - started
        return (count - taken) / elapsed, (cpu_seconds(worker.pid) - cpu) / count * 1e6, rss_mb(worker.pid)
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(20)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        said.seek(0)
        if b"dropped" in said.read():
            sys.exit("events were lost: the rate with events means nothing")


def begin(server, template, command, queued):
    """Microseconds per task for the first of so many queued, by the times in their results."""
    fill(server, template, queued)
    keys = [f"celery-task-meta-{task_id(number)}" for number in range(TIMED)]
    worker = subprocess.Popen(command, env=server.environment(), cwd=HERE, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not server.client.exists(keys[-1]) or None in (results := server.client.mget(keys)):
            if time.monotonic() > deadline:
                sys.exit(f"{command[0]} does not finish")
            time.sleep(0.02)
    finally:
        worker.kill()
        worker.wait()
    done = [datetime.datetime.fromisoformat(json.loads(result)["date_done"]) for result in results]
    return (max(done) - min(done)) / datetime.timedelta(microseconds=1) / (TIMED - 1)


def floor(server, template, count):
    fill(server, template, count)
    started = time.monotonic()
    for _ in range(count // 1000):
        server.client.eval(FLOOR, 3, "celery", "unacked", "unacked_index", 1000, RESULT)
    return count / (time.monotonic() - started)


def latency(server, template, command, sends, per_second):
    """From the message's arrival in the queue to the end of the task, and from before the LPUSH to the result's
    arrival, in ms, at a steady rate; and what an idle worker takes. The arrival is the server's time, the end what the
    worker says in the result: one clock, that of this machine."""
    server.client.flushall()
    raw, old = template
    worker = subprocess.Popen(command, env=server.environment(), cwd=HERE, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    try:
        time.sleep(1.5)
        idle_rss = rss_mb(worker.pid)
        before = server.client.info("stats")["total_commands_processed"]
        time.sleep(10)
        commands = (server.client.info("stats")["total_commands_processed"] - before - 1) / 10
        subscriber = server.client.pubsub()
        subscriber.psubscribe("celery-task-meta-*")
        subscriber.get_message(timeout=5)
        ended, arrived = [], []
        for _ in range(sends):
            message = raw.replace(old, str(uuid.uuid4()))
            started = time.time()
            _, (seconds, microseconds) = server.client.pipeline().lpush("celery", message).time().execute()
            while (result := subscriber.get_message(timeout=2)) is None:
                if time.time() - started > 5:
                    sys.exit("no result")
            arrived.append((time.time() - started) * 1000)
            done = datetime.datetime.fromisoformat(json.loads(result["data"])["date_done"])
            ended.append((done.timestamp() - seconds) * 1000 - microseconds / 1000)
            time.sleep(max(0.0, 1 / per_second - arrived[-1] / 1000))
        both = [(sorted(took)[len(took) // 2], sorted(took)[int(len(took) * 0.99)]) for took in (ended, arrived)]
        return both, idle_rss, commands
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(20)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--binaries", required=True, help="directory of test-worker and stock-worker")
    arguments.add_argument("--tasks", type=int, default=50_000)
    arguments.add_argument("--python-tasks", type=int, default=4_000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--concurrency", default="256", help="tasks in flight, of our worker")
    arguments.add_argument("--longest", type=int, default=100_000, help="tasks in the longest queue (1 kB each)")
    options = arguments.parse_args()
    options.binaries = pathlib.Path(options.binaries).resolve()
    ours = [f"{options.binaries}/test-worker", "-c", options.concurrency]
    stock = [f"{options.binaries}/stock-worker"]
    python = [sys.executable, "-m", "celery", "-A", "peer_app", "worker", "-c", "2", "-P", "prefork", "-l", "ERROR",
              "--without-gossip", "--without-mingle"]
    server = Server()
    try:
        template = capture(server)
        rates = {"floor": [], "ours": [], "python": [], "stock": []}
        cpu = {"ours": [], "with events": [], "python": [], "stock": []}
        rss = {}
        watched, pings = [], []
        queued = {10**power: [] for power in range(3, 10) if 10**power <= options.longest}
        for number in range(options.rounds):
            rates["floor"].append(floor(server, template, options.tasks))

            def measure(name, command, count, unacked=True):
                rate, per_task, rss[name] = drain(server, template, command, count, unacked)
                rates[name].append(rate)
                cpu[name].append(per_task)

            def measure_watched():
                rate, per_task, _ = drain(server, template, [*ours, "-E"], options.tasks, pings=pings)
                watched.append(rate)
                cpu["with events"].append(per_task)

            pair = [lambda: measure("ours", ours, options.tasks), measure_watched]
            for repeat in range(REPEATS):
                for each in pair if (number + repeat) % 2 == 0 else reversed(pair):
                    each()
            measure("python", python, options.python_tasks)
            measure("stock", stock, options.python_tasks * 3, unacked=False)
            for _ in range(REPEATS):
                for length, took in queued.items():
                    took.append(begin(server, template, [*ours, "--without-mingle"], length))
            print(f"round {number + 1}: " + ", ".join(f"{name} {values[-1]:,.0f}/s" for name, values in rates.items()),
                  flush=True)
        (picked_up, arrived), idle_rss, commands = latency(server, template, ours, 500, 100)
    finally:
        server.close()
    mid = {name: statistics.median(values) for name, values in rates.items()}
    share = statistics.median(after / before for before, after in zip(rates["ours"], watched))
    took = {length: statistics.median(values) for length, values in queued.items()}
    print(f"ours : python          {mid['ours'] / mid['python']:.1f}")
    print(f"ours : stock           {mid['ours'] / mid['stock']:.1f}")
    print(f"ours : floor           {mid['ours'] / mid['floor']:.2f}")
    print(f"with events, control   {share:.2f} of the rate without (promise: 0.85), "
          f"{sum(pings)} of {len(pings)} pings answered")
    print("time per task (µs)     " + ", ".join(f"{value:.1f} with {length:,} queued" for length, value in took.items())
          + f"; largest : smallest {max(took.values()) / min(took.values()):.2f} (promise: flat)")
    print("CPU per task (µs)      " + ", ".join(f"{name} {statistics.median(v):.0f}" for name, v in cpu.items()))
    print("RSS under load (MB)    " + ", ".join(f"{name} {value:.1f}" for name, value in rss.items()))
    print("at 100 tasks/s         queued to end of task p50 {:.2f} ms, p99 {:.2f} ms".format(*picked_up)
          + ", send to the result's arrival p50 {:.2f} ms, p99 {:.2f} ms".format(*arrived))
    print(f"idle                   {idle_rss:.1f} MB RSS, {commands:.1f} commands/s")


if __name__ == "__main__":
    main()
