"""The tasks of the Rust test worker, in Python and under the same names, for workflows that cross both.

    CELERY_BROKER_URL, CELERY_RESULT_BACKEND    Redis
    REDIS_URL                                   where `tests.record` counts, as in the Rust worker
"""

import os
import time

import redis
from celery import Celery, chain, group

app = Celery(
    "canvas", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_RESULT_BACKEND"]
)
app.conf.update(
    timezone="UTC",
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    worker_send_task_events=False,
)


@app.task(name="tests.noop")
def noop():
    pass


@app.task(name="tests.echo")
def echo(value):
    return value


@app.task(name="tests.add")
def add(x, y):
    return x + y


@app.task(name="tests.xsum")
def xsum(numbers):
    return sum(numbers)


@app.task(name="tests.sleep")
def sleep(seconds):
    time.sleep(seconds)
    return seconds


@app.task(name="tests.fail")
def fail(message):
    raise ValueError(message)


@app.task(
    name="tests.retry", bind=True, autoretry_for=(KeyError,), max_retries=10, retry_backoff=True, retry_backoff_max=1
)
def retry(self, times):
    if self.request.retries < times:
        raise KeyError(f"try {self.request.retries}")
    return self.request.retries + 1


@app.task(name="tests.record", bind=True)
def record(self, key, milliseconds=0, spin=False):
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as notes:
        started = notes.hincrby(key, self.request.id, 1)
    time.sleep((milliseconds or 0) / 1000)
    return started


# What follows only Python workers run.


@app.task(name="tests.g\u00f6rev")
def echo_of_python(value):
    return repr(value)


@app.task(name="tests.request", bind=True)
def request(self, *args):
    """What a workflow leaves on a message."""
    seen = self.request
    return {
        "args": list(args),
        "is_root": seen.root_id == seen.id,
        "has_parent": seen.parent_id is not None,
        "has_group": seen.group is not None,
        "priority": seen.delivery_info.get("priority"),
        "queue": seen.delivery_info.get("routing_key") is not None,
        "stamps": {name: seen.stamps.get(name) for name in seen.stamped_headers or ()},
        "shadow": seen.shadow,
        "timelimit": seen.timelimit,
        "trace": (seen.headers or {}).get("x-trace"),
        "has_eta": seen.eta is not None,
        "has_expires": seen.expires is not None,
        "reply_to": bool(seen.reply_to),
    }


@app.task(name="tests.replaced", bind=True)
def replaced(self, number, queue):
    """Replaces itself by two tasks of another worker."""
    add_one = app.signature("tests.add", args=(1,), queue=queue)
    return self.replace(chain(app.signature("tests.add", args=(number, 1), queue=queue), add_one))


@app.task(name="tests.replaced_by_group", bind=True)
def replaced_by_group(self, number, queue):
    """Replaces itself by a group of tasks of another worker."""
    return self.replace(group(app.signature("tests.add", args=(number, at), queue=queue) for at in range(3)))
