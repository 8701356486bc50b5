"""A Python worker's side of the tests of remote control: the tasks that the test worker has too.

The environment decides where it connects: CELERY_BROKER_URL, CELERY_RESULT_BACKEND; and how it names lists and bindings:
CELERY_PRIORITY_STEPS, CELERY_SEP.
"""

import os
import time

import redis
from celery import Celery

BROKER = os.environ["CELERY_BROKER_URL"]

app = Celery("remote", broker=BROKER, backend=os.environ["CELERY_RESULT_BACKEND"])
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_time_limit=180,
    task_soft_time_limit=150,
    broker_connection_retry_on_startup=True,
)
if "CELERY_PRIORITY_STEPS" in os.environ:
    steps = [int(step) for step in os.environ["CELERY_PRIORITY_STEPS"].split(",")]
    app.conf.broker_transport_options = {"priority_steps": steps, "sep": os.environ["CELERY_SEP"]}


@app.task(name="tests.noop")
def noop():
    return None


@app.task(name="tests.sleep")
def sleep(seconds):
    time.sleep(seconds)
    return seconds


@app.task(name="tests.record", bind=True)
def record(self, key, milliseconds=0, spin=False):
    with redis.Redis.from_url(BROKER) as client:
        started = client.hincrby(key, self.request.id, 1)
        client.rpush(f"{key}:log", f"{self.request.id} {int(time.time() * 1000)}")
    time.sleep(milliseconds / 1000)
    return started
