"""Sends tasks by name, as the existing producers do, and waits for their results.

    send.py JSON

The argument is one object:

    name, args, kwargs    the task; args and kwargs may be missing
    options               of apply_async: queue, countdown, expires, priority, task_id, headers, …
    link, link_error      one signature or a list of them; a signature is {"name", "args", "kwargs", "immutable"}
    chain                 a list of signatures, in place of name, args and kwargs
    count                 sends the same task so many times (1)
    wait                  seconds to wait for each result; null or missing: does not wait

Prints one object: `ids` in sending order (of a chain: of its members in their order), `id` the last of them, and
`outcomes`, one per id, of which the last one's members are repeated at the top. An outcome has `id`, and if it was
waited for `state`, and either `result`, or `exception` {"type", "module", "args", "message"} and `traceback`, or
`"timed_out": true`.
"""

import json
import sys

from celery import chain
from celery.exceptions import TimeoutError as WaitTimeout

from tradebot_app import app


def signature(description):
    return app.signature(
        description["name"],
        args=description.get("args", []),
        kwargs=description.get("kwargs", {}),
        immutable=description.get("immutable", False),
    )


def signatures(description):
    return [signature(each) for each in (description if isinstance(description, list) else [description])]


def send(order):
    """The results, in the order of the ids."""
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
    return [
        app.send_task(order["name"], args=order.get("args", []), kwargs=order.get("kwargs", {}), **options)
        for _ in range(order.get("count", 1))
    ]


def outcome(result, wait):
    if wait is None:
        return {"id": result.id}
    try:
        value = result.get(timeout=wait, propagate=False, interval=0.05)
    except WaitTimeout:
        return {"id": result.id, "state": result.state, "timed_out": True}
    about = {"id": result.id, "state": result.state}
    if not isinstance(value, BaseException):
        return {**about, "result": value}
    exception = {
        "type": type(value).__qualname__,
        "module": type(value).__module__,
        "args": list(value.args),
        "message": str(value),
    }
    return {**about, "exception": exception, "traceback": result.traceback}


def main():
    order = json.loads(sys.argv[1])
    results = send(order)
    outcomes = [outcome(result, order.get("wait")) for result in results]
    answer = {**outcomes[-1], "ids": [result.id for result in results], "outcomes": outcomes}
    print(json.dumps(answer, default=str))


if __name__ == "__main__":
    main()
