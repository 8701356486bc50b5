"""What RedBeat's own tooling does with a schedule in Redis.

    redbeat_tool.py URL ORDERS

`ORDERS` is a JSON list: ["save", NAME, TASK, SECONDS], ["crontab", NAME, TASK, MINUTE], ["load", NAME], ["disable", NAME],
["delete", NAME]. Prints a list of answers.
"""

import json
import sys

from celery import Celery
from celery.schedules import crontab, schedule
from redbeat import RedBeatSchedulerEntry

url, orders = sys.argv[1], json.loads(sys.argv[2])
app = Celery("tooling", broker=url)
app.conf.redbeat_redis_url = url


def load(name):
    return RedBeatSchedulerEntry.from_key(f"redbeat:{name}", app=app)


def answer(order, name, *rest):
    if order == "save":
        task, seconds = rest
        RedBeatSchedulerEntry(name, task, schedule(seconds, app=app), args=[1], app=app).save()
    elif order == "crontab":
        task, minute = rest
        RedBeatSchedulerEntry(name, task, crontab(minute=minute, app=app), app=app).save()
    elif order == "disable":
        entry = load(name)
        entry.enabled = False
        entry.save()
    elif order == "delete":
        load(name).delete()
        return None
    entry = load(name)
    return {
        "task": entry.task,
        "schedule": repr(entry.schedule),
        "args": entry.args,
        "options": entry.options,
        "enabled": entry.enabled,
        "last_run_at": entry.last_run_at and entry.last_run_at.timestamp(),
        "due_at": entry.due_at.timestamp(),
        "rank": entry.rank,
    }


print(json.dumps([answer(*order) for order in orders]))
