"""The tasks of the test worker (tests/worker), written in Python: both must give the same results.

The environment decides, as it does for the test worker:

    CELERY_BROKER_URL, CELERY_RESULT_BACKEND    Redis
    CELERY_TASK_SEND_SENT_EVENT                 `true`: also tells of the tasks that it publishes
    CELERY_TASK_TRACK_STARTED                   `true`: stores STARTED
    CELERY_RESULT_EXTENDED                      `true`: results with name, arguments, worker, queue
    CELERY_TASK_STORE_ERRORS_EVEN_IF_IGNORED    `true`: failures are stored even where the result is ignored
    CELERY_RESULT_EXPIRES                       seconds
    CELERY_RESULT_GLOBAL_KEYPREFIX              prefix of result keys
"""

import os
import time

from celery import Celery

DEFAULT_URL = "redis://localhost:6379/0"


def flag(name):
    return os.environ.get(name) == "true"


app = Celery(
    "tests",
    broker=os.environ.get("CELERY_BROKER_URL", DEFAULT_URL),
    backend=os.environ.get("CELERY_RESULT_BACKEND", DEFAULT_URL),
)
app.conf.update(
    timezone="UTC",
    enable_utc=True,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    task_send_sent_event=flag("CELERY_TASK_SEND_SENT_EVENT"),
    task_track_started=flag("CELERY_TASK_TRACK_STARTED"),
    result_extended=flag("CELERY_RESULT_EXTENDED"),
    task_store_errors_even_if_ignored=flag("CELERY_TASK_STORE_ERRORS_EVEN_IF_IGNORED"),
    result_expires=int(os.environ.get("CELERY_RESULT_EXPIRES", "86400")),
)
if os.environ.get("CELERY_RESULT_GLOBAL_KEYPREFIX"):
    app.conf.result_backend_transport_options = {"global_keyprefix": os.environ["CELERY_RESULT_GLOBAL_KEYPREFIX"]}


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
    name="tests.retry",
    bind=True,
    autoretry_for=(Exception,),
    max_retries=10,
    retry_backoff=1,
    retry_backoff_max=1,
)
def retry(self, times):
    tried = self.request.retries
    if tried < times:
        raise KeyError(f"try {tried}")
    return tried + 1
