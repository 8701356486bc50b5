"""Makes two workers do the same things, and prints their events.

    events.py OURS PYTHON

The arguments are the node names of the two workers; the queue of each is the part before the `@`. In this order it

1. prints `listening`: the workers may be started now;
2. waits until both are online, and sends each the same tasks;
3. prints `finished` when all have ended: the workers may be stopped now;
4. waits until both are offline, and prints one JSON object:

    tasks      label -> node name -> task id
    events     all events, in the order of arrival
    messages   channel and envelope (without its body) of everything published for events
    tasks_of_state, workers_of_state    what `celery.events.state.State` made of the events
    stored     task id -> the state that was stored when an event told of the task's end
"""

import gc
import json
import sys
import threading
import time

import redis
from celery.events.state import State

from tests_app import app

PATIENCE = 60
ENDS = {"task-succeeded", "task-failed", "task-revoked"}
OF_INTEREST = (
    "state", "name", "args", "kwargs", "result", "exception", "retries", "eta", "expires", "runtime", "timestamp",
    "received", "started", "succeeded", "failed", "retried", "revoked", "rejected", "sent", "root_id", "parent_id",
    "worker", "client", "exchange", "routing_key", "ready",
)
OF_WORKERS = ("hostname", "freq", "active", "processed", "loadavg", "sw_ident", "sw_ver", "sw_sys", "alive", "pid")

# Label -> task, arguments, options. `link` is sent by the worker.
ORDERS = {
    "success": ("tests.add", [2, 3], {}),
    "text": ("tests.echo", ["it's \"quoted\"\n币 \U0001f600"], {}),
    "nested": ("tests.echo", [{"a": [1, 2.5, None, True, {"b": {"c": {"d": 1}}}], "e": {}}], {}),
    "long": ("tests.echo", ["word " * 600], {}),
    "failure": ("tests.fail", ["boom, it's \"over\""], {}),
    "retry": ("tests.retry", [1], {}),
    "expired": ("tests.noop", [], {"expires": -5}),
    "countdown": ("tests.noop", [], {"countdown": 0.5, "expires": 60}),
    "ignored": ("tests.noop", [], {"ignore_result": True}),
    "named": ("tests.noop", [], {"shadow": "another name"}),
    "mismatch": ("tests.add", [1], {}),
}


class Watch:
    """Everything that events say, from its start on."""

    def __init__(self):
        self.events, self.messages, self.stored = [], [], {}
        self.state = State()
        self.failure = None
        self.raw = redis.Redis.from_url(app.conf.broker_url).pubsub()
        self.raw.psubscribe("/*.celeryev/*")
        while self.raw.get_message(timeout=1) is None:
            pass
        for target in (self.receive, self.overhear):
            threading.Thread(target=target, daemon=True).start()

    def receive(self):
        try:
            with app.connection() as connection:
                receiver = app.events.Receiver(connection, handlers={"*": self.note})
                receiver.capture(limit=None, timeout=None, wakeup=False)
        except BaseException as error:
            self.failure = repr(error)
            raise

    def overhear(self):
        for message in self.raw.listen():
            if message["type"] == "pmessage":
                envelope = json.loads(message["data"])
                del envelope["body"]
                self.messages.append({"channel": message["channel"].decode(), "envelope": envelope})

    def note(self, event):
        if event["type"] in ENDS:
            self.stored[event["uuid"]] = app.backend.get_task_meta(event["uuid"], cache=False)["status"]
        self.events.append(dict(event))
        self.state.event(dict(event))

    def seen(self, kind, **fields):
        return any(
            event["type"] == kind and all(event.get(name) == value for name, value in fields.items())
            for event in list(self.events)
        )

    def until(self, what, check):
        deadline = time.monotonic() + PATIENCE
        while not check():
            if self.failure or time.monotonic() > deadline:
                seen = [(event["type"], event["hostname"]) for event in self.events]
                sys.exit(f"no {what}; {self.failure}; seen: {seen}")
            time.sleep(0.02)


def send(queue):
    """Label -> task id."""
    sent = {}
    for label, (name, args, options) in ORDERS.items():
        sent[label] = app.send_task(name, args=tuple(args), queue=queue, **options).id
    callback = app.signature("tests.echo", options={"queue": queue, "task_id": f"callback-of-{queue}"})
    sent["linking"] = app.send_task("tests.add", args=(4, 5), queue=queue, link=callback).id
    sent["callback"] = f"callback-of-{queue}"
    return sent


def main():
    # A result that is collected while another one unsubscribes stops redis-py for good.
    gc.disable()
    nodes = sys.argv[1:]
    watch = Watch()
    watch.until("subscription", lambda: app.backend.client.pubsub_numpat() >= 2)
    print("listening", flush=True)
    for node in nodes:
        watch.until(f"worker-online of {node}", lambda: watch.seen("worker-online", hostname=node))
    tasks = {}
    for node in nodes:
        for label, task_id in send(node.partition("@")[0]).items():
            tasks.setdefault(label, {})[node] = task_id
    for label, ids in tasks.items():
        for task_id in ids.values():
            watch.until(f"end of {label}", lambda: any(watch.seen(end, uuid=task_id) for end in ENDS))
    for node in nodes:
        watch.until(f"heartbeat of {node}", lambda: watch.seen("worker-heartbeat", hostname=node))
    alive = {node: watch.state.workers[node].alive for node in nodes}
    print("finished", flush=True)
    for node in nodes:
        watch.until(f"worker-offline of {node}", lambda: watch.seen("worker-offline", hostname=node))

    def of_state(task):
        about = {name: getattr(task, name) for name in OF_INTEREST}
        about["worker"] = task.worker.hostname
        about["info"] = sorted(task.info())
        return about

    def of_worker(worker):
        return {**{name: getattr(worker, name, None) for name in OF_WORKERS}, "was_alive": alive[worker.hostname]}

    report = {
        "tasks": tasks,
        "events": watch.events,
        "messages": watch.messages,
        "tasks_of_state": {task_id: of_state(task) for task_id, task in watch.state.tasks.items()},
        "workers_of_state": {node: of_worker(watch.state.workers[node]) for node in nodes},
        "stored": watch.stored,
    }
    print(json.dumps(report, default=str), flush=True)


if __name__ == "__main__":
    main()
