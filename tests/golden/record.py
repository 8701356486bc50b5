"""Records what a Celery client puts on Redis.

    record.py FOLDER

Starts a private Redis, sends every case with the Celery that runs this script, and writes
FOLDER/celery-VERSION.jsonl: one JSON object per message, with

    celery, kombu   versions of the client
    case            its name, the same in all files
    list            the list in which it lay, with its priority suffix
    element         the list element as it was, as text
    args, kwargs    what a Python worker hands to the task, in JSON as it was sent: typed values as kombu spells them
    python          the same as Python shows it
    accepted        whether the serializer and the compression are among those that this worker reads

Every message calls `tests.echo` with one argument, so that a worker's result is that argument. Runs with Celery 4.4 to
5.7; what a version does not know yet is left out of its file.
"""

import base64
import datetime
import decimal
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import uuid

import celery
import kombu
import kombu.compression
import kombu.serialization
import redis
from celery import Celery, chain, chord, group

QUEUE = "celery"
FAR = datetime.datetime(2999, 1, 1, tzinfo=datetime.timezone.utc)
PAST = datetime.datetime(2020, 1, 1, 12, 30, 15, 123456, tzinfo=datetime.timezone.utc)
READ = ("application/json", "application/x-msgpack")

VALUES = {
    "text": "plain",
    "non_ascii": "çok güzel 币安 \U0001f680 \u2028 \x7f",
    "escapes": 'quotes " \\ / \n \t \b \x00',
    "nothing": None,
    "yes": True,
    "zero": 0,
    "integer_of_63_bits": 2**63 - 1,
    "integer_of_64_bits": 2**64 - 1,
    "integer_of_70_bits": 2**70 - 1,
    "negative": -(2**63),
    "very_negative": -(2**80),
    "float": 1e-8,
    "large_float": 1.7976931348623157e308,
    "list": [1, [2, [3, [4, [5]]]], {}],
    "object": {"": 1, "a b": {"c": [None, False]}, "__type__": "not kombu's"},
    "empty": "",
    "long": "0123456789" * 120,
}
TYPED = {
    "datetime": PAST,
    "date": PAST.date(),
    "time": PAST.time(),
    "decimal": decimal.Decimal("1.50"),
    "uuid": uuid.UUID("12345678-1234-5678-1234-567812345678"),
    "bytes": b"text",
    "odd_bytes": b"\xff\x00",
}
OPTIONS = {
    "priority_0": {"priority": 0},
    "priority_3": {"priority": 3},
    "priority_9": {"priority": 9},
    "priority_beyond": {"priority": 12},
    "eta": {"eta": PAST},
    "eta_in_another_zone": {"eta": PAST.astimezone(datetime.timezone(datetime.timedelta(hours=5, minutes=30)))},
    "countdown_of_nothing": {"countdown": 0},
    "expires": {"expires": FAR},
    "expires_in_seconds": {"expires": 3e9},
    "limits": {"time_limit": 300, "soft_time_limit": 200.5},
    "headers": {"headers": {"x-trace": "41", "x-nested": {"a": [1, None, "ş"]}, "x-number": 1.5}},
    "shadow": {"shadow": "a name for people"},
    "reply_to": {"reply_to": "somewhere"},
    "ignored": {"ignore_result": True},
    "compression_zlib": {"compression": "zlib"},
    "compression_gzip": {"compression": "gzip"},
    "compression_bzip2": {"compression": "bzip2"},
    "compression_lzma": {"compression": "lzma"},
    "compression_zstd": {"compression": "zstd"},
    "compression_brotli": {"compression": "brotli"},
    "serializer_msgpack": {"serializer": "msgpack"},
    "serializer_msgpack_zlib": {"serializer": "msgpack", "compression": "zlib"},
    "serializer_yaml": {"serializer": "yaml"},
    "serializer_pickle": {"serializer": "pickle"},
    "serializer_pickle_zlib": {"serializer": "pickle", "compression": "zlib"},
}


class Recorder:
    def __init__(self, port, folder):
        url = f"redis://127.0.0.1:{port}/0"
        self.client = redis.Redis.from_url(url)
        self.app = Celery("golden", broker=url, backend=url)
        path = pathlib.Path(folder) / f"celery-{celery.__version__}.jsonl"
        self.file = path.open("w", encoding="ascii")
        self.recorded = 0

    def task(self, case, *args, protocol=2, **options):
        """A signature with an id that says where it is from."""
        task_id = f"{celery.__version__}-p{protocol}-{case}"
        return self.app.signature("tests.echo", args=args, options={"task_id": task_id, **options})

    def send(self, case, send, protocol=2):
        """Has a case sent and records every message of it."""
        self.app.conf.task_protocol = protocol
        self.app.__dict__.pop("amqp", None)
        try:
            send()
        except Exception as error:  # what this version cannot send is not recorded
            print(f"{celery.__version__}: without {case}: {type(error).__name__}: {error}", file=sys.stderr)
            self.client.flushall()
            return
        for step in ("", "\x06\x163", "\x06\x166", "\x06\x169"):
            key = (QUEUE + step).encode()
            for element in reversed(self.client.lrange(key, 0, -1)):
                self.write(case, protocol, key, element)
        self.client.flushall()

    def write(self, case, protocol, key, element):
        message = json.loads(element)
        content_type, accepted = message["content-type"], message["content-type"] in READ
        body = base64.b64decode(message["body"])
        method = message["headers"].get("compression")
        if method:
            accepted = accepted and method in ("application/x-gzip", "application/x-bz2", "application/zstd")
            body = kombu.compression.decompress(body, method)
        decoded = kombu.serialization.loads(body, content_type, message["content-encoding"], accept=[content_type])
        if content_type == "application/json":
            plain = json.loads(body)
        else:
            plain = decoded
        args, kwargs = parts(plain)
        line = {
            "celery": celery.__version__,
            "kombu": kombu.__version__,
            "case": f"p{protocol}-{case}",
            "list": key.decode(),
            "element": element.decode(),
            "args": args,
            "kwargs": kwargs,
            "python": repr(parts(decoded))[:500],
            "accepted": accepted,
        }
        print(json.dumps(line, default=repr), file=self.file)
        self.recorded += 1

    def record(self):
        for protocol in (2, 1):
            for name, value in {**VALUES, **TYPED}.items():
                self.send(name, lambda: self.task(name, value, protocol=protocol).apply_async(), protocol)
            named = {"kwargs": {"value": "by name"}}
            self.send(
                "by_name",
                lambda: self.app.signature(
                    "tests.echo", task_id=f"{celery.__version__}-p{protocol}-by_name", **named
                ).apply_async(),
                protocol,
            )
            for name, options in OPTIONS.items():
                self.send(
                    name, lambda: self.task(name, name, protocol=protocol, **options).apply_async(), protocol
                )
            self.canvas(protocol)
        self.stamped()
        self.file.close()

    def canvas(self, protocol):
        sig = lambda case, *args: self.task(case, *args, protocol=protocol)
        cases = {
            "link": lambda: sig("link", 1).apply_async(link=sig("link-after")),
            "links": lambda: sig("links", 1).apply_async(link=[sig("links-a"), sig("links-b")]),
            "link_error": lambda: sig("link_error", 1).apply_async(link_error=sig("link_error-after")),
            "chain": lambda: chain(sig("chain-1", 1), sig("chain-2"), sig("chain-3")).apply_async(),
            "group": lambda: group(sig("group-1", 1), sig("group-2", 2)).apply_async(),
            "chord": lambda: chord([sig("chord-1", 1), sig("chord-2", 2)], sig("chord-body")).apply_async(),
            "chain_to_group": lambda: chain(
                sig("to_group-1", 1), group(sig("to_group-2"), sig("to_group-3"))
            ).apply_async(),
            "chain_through_chord": lambda: chain(
                sig("through-1", 1), group(sig("through-2"), sig("through-3")), sig("through-4"), sig("through-5")
            ).apply_async(),
        }
        for name, send in cases.items():
            self.send(name, send, protocol)

    def stamped(self):
        try:
            from celery.canvas import StampingVisitor
        except ImportError:
            return

        class Stamps(StampingVisitor):
            def on_signature(self, sig, **headers):
                return {"trace": "ş", "numbers": [1, 2], "stamped_headers": ["trace", "numbers"]}

        signature = chain(self.task("stamped-1", 1), self.task("stamped-2"))
        signature.stamp(Stamps())
        self.send("stamped", signature.apply_async)


def parts(body):
    """Arguments of a body of either protocol."""
    if isinstance(body, dict):
        return list(body["args"]), body["kwargs"]
    return list(body[0]), body[1]


def main():
    (folder,) = sys.argv[1:]
    with socket.socket() as probe, tempfile.TemporaryDirectory() as directory:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        server = subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory],
            stdout=subprocess.DEVNULL,
        )
        try:
            for _ in range(100):
                try:
                    redis.Redis(port=port).ping()
                    break
                except redis.ConnectionError:
                    time.sleep(0.05)
            recorder = Recorder(port, folder)
            recorder.record()
            print(f"celery {celery.__version__}: {recorder.recorded} messages", flush=True)
        finally:
            server.terminate()
            server.wait(10)
    # Results that are collected at the end would look for the server.
    os._exit(0)


if __name__ == "__main__":
    main()
