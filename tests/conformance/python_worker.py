"""The suite's tasks on a Python worker, for a queue that it shares with the Rust one."""

import os

from celery import Celery

app = Celery('python_worker', broker=os.environ['TEST_BROKER'], backend=os.environ['TEST_BACKEND'])
app.conf.update(result_extended=True, task_create_missing_queues=False)
app.set_default()

from t.integration import tasks  # noqa: E402

app.register_task(tasks.ClassBasedAutoRetryTask())
