"""The Python peer of the benchmark: the task of the test worker, with the deployment's settings."""

import os

from celery import Celery

app = Celery("peer", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_RESULT_BACKEND"])
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_reject_on_worker_lost=True,
    broker_connection_retry_on_startup=True,
)


@app.task(name="tests.noop")
def noop():
    return None
