"""What RedBeat's own tooling does with a schedule in Redis.

    redbeat_tool.py URL ORDERS

`ORDERS` is a JSON list: ["save", NAME, TASK, SECONDS], ["crontab", NAME, TASK, MINUTE], ["load", NAME], ["disable", NAME],
["delete", NAME], ["odd", KIND] (saves an entry of that name with values that JSON has no form for), ["send", NAME]
(sends it as RedBeat's scheduler does). Prints a list of answers.
"""

import json
import sys

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from celery import Celery
from celery.schedules import crontab, schedule
from redbeat import RedBeatSchedulerEntry
from redbeat.schedulers import RedBeatScheduler

url, orders = sys.argv[1], json.loads(sys.argv[2])
app = Celery("tooling", broker=url)
app.conf.redbeat_redis_url = url


def load(name):
    return RedBeatSchedulerEntry.from_key(f"redbeat:{name}", app=app)


PARIS = datetime(2036, 7, 2, 3, 4, 5, 678, tzinfo=ZoneInfo("Europe/Paris"))
ODD = {
    "big": {"args": [2**70, -(2**70)], "kwargs": {"n": [2**64]}},
    "nan": {"args": [float("nan"), float("-inf")]},
    "time": {
        "args": [datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc), datetime(2026, 1, 2)],
        "kwargs": {"a": {"b": [PARIS, PARIS.astimezone(timezone(timedelta(hours=5, minutes=30)))]}},
    },
    "typed": {"args": [{"__type__": "custom", "x": {"__type__": "bytes", "__value__": "y"}}, "caf\u00e9"]},
    "expires": {"options": {"expires": PARIS}},
    "expires_text": {"options": {"expires": "2036-01-02T03:04:05"}},
    "expires_after": {"options": {"expires": 12.5, "priority": 3}},
}


def answer(order, name, *rest):
    if order == "odd":
        RedBeatSchedulerEntry(name, "tests." + name, schedule(1, app=app), app=app, **ODD[name]).save()
        return None
    elif order == "send":
        RedBeatScheduler(app=app, lazy=True).apply_async(load(name), advance=False)
        return None
    elif order == "save":
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
