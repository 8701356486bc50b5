"""Sends tasks by name, as the existing producers do, and waits for their results.

    send.py JSON
    send.py @FILE

The argument, or the content of the file, is one order, or a list of orders: all of them are sent before the first is waited for. An order is one
object:

    name, args, kwargs    the task; args and kwargs may be missing
    options               of apply_async: queue, countdown, expires, priority, task_id, headers, …
    registered            true: calls apply_async of the task itself, as `.delay()` does; it must be registered here
    link, link_error      one signature or a list of them; a signature is {"name", "args", "kwargs", "options", "immutable"}
    chain                 a list of signatures, in place of name, args and kwargs
    result_of             the id of a task sent earlier, in place of name, args and kwargs: sends nothing
    count                 sends the same task so many times (1)
    wait                  seconds to wait for each result; null or missing: does not wait

Prints one object per order, in a list if the orders were in one: `ids` in sending order (of a chain: of its members in
their order), `id` the last of them, and `outcomes`, one per id, of which the last one's members are repeated at the
top. An outcome has `id`, `sent` (Unix seconds), and if it was waited for `state`, `done` (Unix seconds, null if not
known) and either `result`, or `exception` {"type", "module", "args", "message"} and `traceback`, or
`"timed_out": true`.
"""

import gc
import json
import sys
import time

from celery import chain
from celery.exceptions import TimeoutError as WaitTimeout

from tradebot_app import app


def signature(description):
    return app.signature(
        description["name"],
        args=description.get("args", []),
        kwargs=description.get("kwargs", {}),
        options=description.get("options", {}),
        immutable=description.get("immutable", False),
    )


def signatures(description):
    return [signature(each) for each in (description if isinstance(description, list) else [description])]


def send(order):
    """The results, in the order of the ids."""
    if order.get("result_of"):
        return [app.AsyncResult(order["result_of"])]
    options = dict(order.get("options") or {})
    for embedded in ("link", "link_error"):
        if order.get(embedded):
            options[embedded] = signatures(order[embedded])
    if order.get("chain"):
        last = chain(*signatures(order["chain"])).apply_async(**options)
        members = []
        while last is not None:
            members.insert(0, last)
            last = last.parent
        return members
    args, kwargs = order.get("args", []), order.get("kwargs", {})
    if order.get("registered"):
        task = app.tasks[order["name"]]
        return [task.apply_async(args, kwargs, **options) for _ in range(order.get("count", 1))]
    return [app.send_task(order["name"], args=args, kwargs=kwargs, **options) for _ in range(order.get("count", 1))]


def outcome(result, sent, wait):
    about = {"id": result.id, "sent": sent}
    if wait is None:
        return about
    try:
        value = result.get(timeout=wait, propagate=False, interval=0.05)
    except WaitTimeout:
        return {**about, "state": result.state, "timed_out": True}
    about.update(state=result.state, done=result.date_done.timestamp() if result.date_done else None)
    if not isinstance(value, BaseException):
        return {**about, "result": value}
    exception = {
        "type": type(value).__qualname__,
        "module": type(value).__module__,
        "args": list(value.args),
        "message": str(value),
    }
    return {**about, "exception": exception, "traceback": result.traceback}


def answer(order, sent, results):
    outcomes = [outcome(result, sent, order.get("wait")) for result in results]
    return {**outcomes[-1], "ids": [result.id for result in results], "outcomes": outcomes}


def main():
    # A result that is collected while another one unsubscribes stops redis-py for good.
    gc.disable()
    text = sys.argv[1]
    if text.startswith("@"):
        # One argument of a command line holds 128 KiB.
        with open(text[1:], encoding="utf-8") as file:
            text = file.read()
    orders = json.loads(text)
    several = isinstance(orders, list)
    sent = [(order, time.time(), send(order)) for order in (orders if several else [orders])]
    answers = [answer(*each) for each in sent]
    print(json.dumps(answers if several else answers[0], default=str))


if __name__ == "__main__":
    main()
