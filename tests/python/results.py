"""Makes two workers do the same things, and prints their results, as in Redis and as a Python client sees them.

    results.py OURS PYTHON

The arguments are the node names of the two workers; the queue of each is the part before the `@`. Prints one JSON
object, label -> node name -> what is known of the task:

    id          its id
    documents   everything that was published on the channel of its result, in that order, as text
    stored      the value of its key, as text
    ttl         the seconds that this is kept
    client      what its `AsyncResult` says: `state`, `raised` by `get()` (or null), `returned`, `traceback`,
                `date_done`, `children`, and what `result_extended` adds
    forgotten   what is stored and said of it after `forget()`: [value, state]

and under `raised` what `get()` raises for the exceptions that only our worker is told to raise, by their names.
"""

import gc
import json
import sys
import threading
import time

import redis
from celery import group
from celery.exceptions import TimeoutError as WaitTimeout

from tests_app import app

PATIENCE = 60
# Label -> task, arguments, options.
ORDERS = {
    "success": ("tests.add", (2, 3), {}),
    "text": ("tests.echo", ("it's \"quoted\"\n币 \U0001f600",), {}),
    "nested": ("tests.echo", ({"a": [1, 2.5, None, True, {"b": {}}], "币": []},), {}),
    "failure": ("tests.fail", ("boom, it's \"over\" \u5e01",), {}),
    "retry": ("tests.retry", (1,), {}),
    "expired": ("tests.noop", (), {"expires": -5}),
    "ignored": ("tests.noop", (), {"ignore_result": True}),
    "ignored failure": ("tests.fail", ("boom",), {"ignore_result": True}),
    "ignored and expired": ("tests.noop", (), {"ignore_result": True, "expires": -5}),
    "stamped": ("tests.noop", (), {"stamped_headers": ["mid"], "mid": "abc"}),
}
# Module, class, arguments.
RAISED = {
    "builtin": ("builtins", "KeyError", ["nope"]),
    "several arguments": ("builtins", "OSError", [2, "No such file or directory"]),
    "without arguments": ("builtins", "RuntimeError", []),
    "of Celery": ("celery.exceptions", "MaxRetriesExceededError", ["Can't retry"]),
    "of billiard": ("billiard.exceptions", "SoftTimeLimitExceeded", []),
    "unknown class": ("celery.exceptions", "NobodyKnowsThis", ["a", 1]),
    "unknown module": ("no.such.module", "ExchangeError", [{"code": -1003}]),
}
EXTENDED = ("name", "args", "kwargs", "worker", "retries", "queue")


class Documents:
    """What is published about results, by channel."""

    def __init__(self):
        self.published = {}
        self.watch = app.backend.client.pubsub()
        self.watch.psubscribe("*celery-task-meta-*")
        while self.watch.get_message(timeout=1) is None:
            pass
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for message in self.watch.listen():
            if message["type"] == "pmessage":
                of_channel = self.published.setdefault(message["channel"].decode(), [])
                of_channel.append(message["data"].decode())

    def of(self, task_id):
        key = app.backend.get_key_for_task(task_id)
        return self.published.get(key.decode() if isinstance(key, bytes) else key, [])


def raised_by(result):
    """What `get()` gives, and what it raises."""
    try:
        return result.get(timeout=PATIENCE, interval=0.05), None
    except WaitTimeout:
        sys.exit(f"{result.id} does not end: {result.state}")
    except Exception as error:
        return None, {
            "type": type(error).__qualname__,
            "module": type(error).__module__,
            "bases": [base.__qualname__ for base in type(error).__mro__[1:]],
            "args": list(error.args),
            "text": str(error),
        }


def children(result):
    return [child.id if not isinstance(child, list) else [each.id for each in child] for child in result.children or []]


def of_client(result):
    returned, raised = raised_by(result)
    fresh = app.AsyncResult(result.id)
    return {
        "returned": returned,
        "raised": raised,
        "state": fresh.state,
        "ready": [fresh.ready(), fresh.successful(), fresh.failed()],
        "info": repr(fresh.info),
        "traceback": fresh.traceback,
        "date_done": type(fresh.date_done).__name__,
        "children": children(fresh),
        "extended": {name: getattr(fresh, name) for name in EXTENDED},
    }


def forget(result):
    result.forget()
    return [app.backend.get(app.backend.get_key_for_task(result.id)), app.AsyncResult(result.id).state]


def report(result, documents, ends):
    about = {"id": result.id, "client": of_client(result) if ends else None}
    key = app.backend.get_key_for_task(result.id)
    stored = app.backend.get(key)
    about["stored"] = stored.decode() if stored else None
    about["ttl"] = app.backend.client.ttl(key)
    about["forgotten"] = forget(result)
    about["documents"] = documents.of(result.id)
    return about


def send(queue):
    """Label -> result. The last that is sent ends last, as the workers take one after the other."""
    sent = {}
    for label, (name, args, options) in ORDERS.items():
        sent[label] = app.send_task(name, args=args, queue=queue, **options)
    callback = app.signature("tests.echo", options={"queue": queue, "task_id": f"callback-of-{queue}"})
    sent["linking"] = app.send_task("tests.add", args=(4, 5), queue=queue, link=callback)
    sent["callback"] = app.AsyncResult(f"callback-of-{queue}")
    members = group(app.signature("tests.add", args=(number, 1)).set(queue=queue) for number in range(2))()
    sent["member"] = members.results[1]
    sent["last"] = app.send_task("tests.noop", queue=queue)
    return sent


def main():
    # A result that is collected while another one unsubscribes stops redis-py 6.1 for good.
    gc.disable()
    ours, python = sys.argv[1:]
    documents = Documents()
    sent = {node: send(node.partition("@")[0]) for node in (ours, python)}
    broker = redis.Redis.from_url(app.conf.broker_url)
    for results in sent.values():
        results["last"].get(timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while any(broker.exists(name) for name in ("unacked", "ours", "python")):
        if time.monotonic() > deadline:
            sys.exit("not everything is acknowledged")
        time.sleep(0.02)
    answer = {}
    for node, results in sent.items():
        for label, result in results.items():
            # Of these nothing may be known.
            ends = "ignored" not in label
            answer.setdefault(label, {})[node] = report(result, documents, ends)
    queue = ours.partition("@")[0]
    raising = {label: app.send_task("tests.raise", args=what, queue=queue) for label, what in RAISED.items()}
    answer["raised"] = {label: raised_by(result)[1] for label, result in raising.items()}
    print(json.dumps(answer, default=str))


if __name__ == "__main__":
    main()
