"""A stand-in for the Celery application of the existing deployment.

The options, task names and the queue are the deployment's; the bodies only leave a record. Each run of a task appends
one JSON object to the Redis list `tests:ran` of the broker's database:

    {"task", "args", "kwargs", "id", "retries", "eta", "expires", "headers", …}

The environment decides what is in it:

    CELERY_BROKER_URL, CELERY_RESULT_BACKEND               Redis
    CELERY_TASK_TIME_LIMIT, CELERY_TASK_SOFT_TIME_LIMIT    180 and 150 seconds without
    WITH_WARMUPS=1          also registers the two warm-ups, as the deployment's worker does before it is replaced
    WARMUPS_FETCH_SPOT, WARMUPS_FETCH_FUTURES
                            addresses of the two lists: the warm-ups fetch them and write the keys, one after the other
    WARMUPS_FAIL=1          the two warm-ups fail, and are retried by the deployment's rule
    WARMUPS_QUEUE           sends the warm-ups to this queue, by `task_routes`
    BEAT_WARMUP_SECONDS     puts both warm-ups on the schedule, at this interval
    VISIBILITY_TIMEOUT      seconds after which a message that was taken and not acknowledged is restored; 3600 without
"""

import json
import os
import time
import urllib.request

import redis
from celery import Celery
from prepare import prepare

RAN = "tests:ran"
BOT_TASKS = (
    "app.core.bot_tasks.run_bot_task_for_all",
    "app.core.bot_tasks.reactivate_bots_after_reset",
    "app.core.bot_tasks.run_bot_task",
)
WARMUPS = (
    "app.core.cache_warmup_tasks.warmup_spot_symbols_cache",
    "app.core.cache_warmup_tasks.warmup_futures_symbols_cache",
)

DEFAULT_URL = "redis://localhost:6379/0"
BROKER = os.environ.get("CELERY_BROKER_URL", DEFAULT_URL)

app = Celery(
    "tradebot",
    broker=BROKER,
    backend=os.environ.get("CELERY_RESULT_BACKEND", DEFAULT_URL),
)
app.conf.update(
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    timezone="UTC",
    enable_utc=True,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_reject_on_worker_lost=True,
    task_time_limit=int(os.environ.get("CELERY_TASK_TIME_LIMIT", "180")),
    task_soft_time_limit=int(os.environ.get("CELERY_TASK_SOFT_TIME_LIMIT", "150")),
    broker_connection_retry_on_startup=True,
    redbeat_redis_url=BROKER,
)
if os.environ.get("VISIBILITY_TIMEOUT"):
    app.conf.broker_transport_options = {"visibility_timeout": int(os.environ["VISIBILITY_TIMEOUT"])}

# What the worker knows of a message beside its arguments.
OF_INTEREST = (
    "lang",
    "retries",
    "eta",
    "expires",
    "root_id",
    "parent_id",
    "group",
    "correlation_id",
    "reply_to",
    "origin",
    "timelimit",
    "argsrepr",
    "kwargsrepr",
    "ignore_result",
    "stamped_headers",
    "stamps",
    "delivery_info",
    "headers",
    "hostname",
)


def record(task, args, kwargs):
    """Appends one run to the list that the tests read."""
    request = task.request
    entry = {"task": task.name, "args": list(args), "kwargs": kwargs, "id": request.id}
    entry.update({name: getattr(request, name, None) for name in OF_INTEREST})
    with redis.Redis.from_url(BROKER) as client:
        client.rpush(RAN, json.dumps(entry, default=str))


def refresh(market, url):
    """Fetches a list and writes what belongs to it, as the deployment does: in four steps."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        listed = prepare(market, json.load(answer)["symbols"])
    with redis.Redis.from_url(os.environ.get("REDIS_URL", BROKER)) as client:
        client.set(f"cache:symbols:{market}:v1", json.dumps(listed), ex=int(os.environ.get("WARMUPS_TTL", "900")))
        client.set(f"cache:symbols:{market}:last_good", json.dumps(listed))
        client.set(f"metrics:{market}_symbols_cache:last_refresh_ts", json.dumps(int(time.time())))
        client.incrby(f"metrics:warmup_{market}_symbols_cache:success", 1)
    return f"WARMUP_OK:{len(listed)}"


def leave_record(name, answer, failing=False, fetch=None, **options):
    """Registers a task that does nothing else, unless there is something to fetch."""

    @app.task(name=name, bind=True, **options)
    def run(self, *args, **kwargs):
        record(self, args, kwargs)
        if failing:
            raise RuntimeError("no list from the exchange")
        return refresh(*fetch) if fetch else answer


for bot_task in BOT_TASKS:
    leave_record(bot_task, None)

if os.environ.get("WITH_WARMUPS") == "1":
    for market, warmup in zip(("spot", "futures"), WARMUPS):
        source = os.environ.get(f"WARMUPS_FETCH_{market.upper()}")
        leave_record(
            warmup,
            "WARMUP_OK:0",
            fetch=(market, source) if source else None,
            failing=os.environ.get("WARMUPS_FAIL") == "1",
            autoretry_for=(Exception,),
            retry_backoff=True,
            retry_backoff_max=600,
            retry_jitter=True,
            retry_kwargs={"max_retries": 5},
        )

if os.environ.get("WARMUPS_QUEUE"):
    app.conf.task_routes = {"app.core.cache_warmup_tasks.*": {"queue": os.environ["WARMUPS_QUEUE"]}}

if os.environ.get("BEAT_WARMUP_SECONDS"):
    interval = float(os.environ["BEAT_WARMUP_SECONDS"])
    app.conf.beat_schedule = {
        # warmup-spot-symbols-cache, warmup-futures-symbols-cache
        name.rpartition(".")[2].replace("_", "-"): {"task": name, "schedule": interval}
        for name in WARMUPS
    }
    # The default scheduler keeps its state in a file, which would outlive the test.
    app.conf.beat_scheduler = "celery.beat:Scheduler"
