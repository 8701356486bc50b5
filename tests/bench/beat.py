"""Measures the beat: memory, lateness with 1,000 entries, start and CPU time with 100,000.

Run it with `make bench`. The results depend on the machine and its load.
"""

import argparse
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

import redis

MANY = 100_000
# Limits: milliseconds that 99 of 100 messages may be late, KiB of an idle beat, seconds to start with MANY entries.
LATE_MS, IDLE_KIB, START_SECONDS = 20, 8192, 2
# Report scripts that block the server for longer than this many microseconds.
SLOW_SCRIPT = 200


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    def __enter__(self):
        self.folder = tempfile.mkdtemp()
        self.port = free_port()
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--save", "", "--dir", self.folder, "--loglevel", "warning"],
            stdout=subprocess.DEVNULL)
        self.client = redis.Redis(port=self.port)
        while True:
            try:
                self.client.ping()
                return self
            except redis.ConnectionError:
                time.sleep(0.05)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder)


class Beat:
    """A running beat, with a schedule or else with the warm-ups."""

    def __init__(self, binary, server, schedule):
        self.metrics = free_port()
        interval = "300" if schedule is None else "0"
        env = {
            "PATH": os.environ["PATH"],
            "CELERY_BROKER_URL": f"redis://127.0.0.1:{server.port}/0",
            "CELERY_RESULT_BACKEND": f"redis://127.0.0.1:{server.port}/0",
            "SPOT_SYMBOLS_WARMUP_INTERVAL_SECONDS": interval,
            "FUTURES_SYMBOLS_WARMUP_INTERVAL_SECONDS": interval,
        }
        args = [binary, "-l", "warning"]
        if schedule is not None:
            args += ["--schedule", str(schedule), "--metrics-listen", f"127.0.0.1:{self.metrics}"]
        self.started = time.monotonic()
        self.process = subprocess.Popen(args, env=env)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def resident_kib(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])

    def cpu_ms(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")

    def buckets(self):
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=10).read().decode()
        found = re.findall(r'lateness_seconds_bucket\{le="([^"]+)"\} (\d+)', text)
        return {float(le.replace("+Inf", "inf")): int(count) for le, count in found}


def entries(folder, count, plan):
    path = pathlib.Path(folder) / f"{count}.toml"
    with path.open("w") as out:
        for n in range(count):
            out.write(f'[[entry]]\nname = "entry-{n}"\ntask = "tests.noop"\n{plan(n)}\n\n')
    return path


def percentile(before, after, share):
    counts = {le: after[le] - before[le] for le in after}
    total = counts[float("inf")]
    return total, next(le for le in sorted(counts) if counts[le] >= share * total)


def judged(value, wanted):
    return f"wanted ≤ {wanted:g}: {'met' if value <= wanted else 'MISSED'}"


def lateness(binary, folder, name, plan):
    with Server() as server, Beat(binary, server, entries(folder, 1000, plan)) as beat:
        # Leave out the start, when all entries run at once.
        time.sleep(4)
        server.client.config_set("slowlog-log-slower-than", SLOW_SCRIPT)
        server.client.config_set("slowlog-max-len", 10_000)
        server.client.slowlog_reset()
        before, cpu = beat.buckets(), beat.cpu_ms()
        time.sleep(15)
        after = beat.buckets()
        share = (beat.cpu_ms() - cpu) / 15_000
        total, p50 = percentile(before, after, 0.5)
        p99 = percentile(before, after, 0.99)[1] * 1000
        within = (after[LATE_MS / 1000] - before[LATE_MS / 1000]) / total
        scripts = sorted(call["duration"] for call in server.client.slowlog_get(10_000)
                         if call["command"].startswith(b"EVALSHA"))
        print(f"1,000 entries, {name}: {total} messages, lateness p50 ≤ {p50 * 1000:g} ms, p99 ≤ {p99:g} ms "
              f"({judged(p99, LATE_MS)}; {within:.2%} within), {share:.1%} of a CPU")
        if scripts:
            print(f"  scripts of over {SLOW_SCRIPT} us: {len(scripts)}, "
                  f"the median {scripts[len(scripts) // 2]} us, the longest {scripts[-1]} us")


def many(binary, folder):
    schedule = entries(folder, MANY, lambda n: f'crontab = "{n % 60} {n // 60 % 24} * * *"')
    with Server() as server:
        for start in ("first start", "restart"):
            with Beat(binary, server, schedule) as beat:
                leader = "tradebot-symbols:beat-leader"
                while not (server.client.exists(leader) and server.client.hlen("tradebot-symbols:beat-slots") == MANY):
                    time.sleep(0.005)
                took, cpu = time.monotonic() - beat.started, beat.cpu_ms()
                print(f"100,000 entries, {start}: {took:.2f} s ({judged(took, START_SECONDS)}; {cpu:.0f} ms of CPU), "
                      f"{beat.resident_kib()} KiB resident")
                server.client.delete(leader)


def tick(binary, folder):
    """Ten entries are due each second, among 10 and among 100,000."""
    for scheduled in (10, MANY):
        def plan(n):
            return "interval = 1" if n < 10 else f'crontab = "{n % 60} {n // 60 % 24} 1 1 *"'
        with Server() as server, Beat(binary, server, entries(folder, scheduled, plan)) as beat:
            while server.client.hlen("tradebot-symbols:beat-slots") < scheduled:
                time.sleep(0.05)
            time.sleep(2)
            before, cpu = beat.buckets(), beat.cpu_ms()
            time.sleep(10)
            total = percentile(before, beat.buckets(), 0.99)[0]
            print(f"10 due a second among {scheduled}: {(beat.cpu_ms() - cpu) / 10:.2f} ms of CPU a second, {total} sent")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binaries", required=True)
    binary = str(pathlib.Path(parser.parse_args().binaries) / "tradebot-beat")
    with tempfile.TemporaryDirectory() as folder:
        with Server() as server, Beat(binary, server, None) as beat:
            time.sleep(5)
            resident = beat.resident_kib()
            print(f"idle: {resident} KiB resident ({judged(resident, IDLE_KIB)})")
        lateness(binary, folder, "all at the same instant", lambda n: "interval = 1")
        lateness(binary, folder, "spread over the second", lambda n: "interval = 1\njitter = 1")
        many(binary, folder)
        tick(binary, folder)


main()
