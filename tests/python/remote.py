"""A client of remote control that takes the given steps, one after the other, in one process.

    remote.py STEPS

STEPS is a JSON list. A step is an object; the first of these members says what it does:

    send       a task: {"name", "args", "kwargs", "options"}; gives its id
    get        an id; gives what `AsyncResult.get` gave within `wait` seconds (60): state, result, exception
    state      an id; gives the state stored now
    ask        a command, with `arguments`, for the nodes in `to`, or those that `pattern` and `matcher` fit, else for
               all; waits `timeout` seconds (10) for answers, or until as many came as there are nodes in `to`, or as
               `expect` says. Gives "replies", by node, and "seconds"
    tell       the same without an answer
    inspect    a method of `app.control.inspect`, with `args` and `kwargs`; `to` and `timeout` as above
    control    a method of `app.control`, with `args` and `kwargs`
    cli        arguments of the program `celery`; gives "code" and "output"
    sleep      seconds

With `until`, the step is taken again until its outcome, for `ask` the answer of the node in `to`, has this length, or
is equal to this if it is no number; at most for 60 seconds.

Prints the list of the outcomes.
"""

import gc
import json
import sys
import time

from celery.bin.celery import celery
from celery.exceptions import TimeoutError as WaitTimeout
from click.testing import CliRunner

from remote_app import app

PATIENCE = 60


def ask(step, reply):
    started = time.monotonic()
    replies = app.control.broadcast(
        step["ask"] if reply else step["tell"],
        arguments=step.get("arguments", {}),
        destination=step.get("to"),
        pattern=step.get("pattern"),
        matcher=step.get("matcher"),
        reply=reply,
        timeout=step.get("timeout", 10),
        limit=step.get("expect"),
    )
    by_node = {node: answer for each in replies or [] for node, answer in each.items()}
    return {"replies": by_node, "seconds": time.monotonic() - started}


def outcome(task_id, wait):
    result = app.AsyncResult(task_id)
    try:
        value = result.get(timeout=wait, propagate=False, interval=0.05)
    except WaitTimeout:
        return {"state": result.state, "timed_out": True}
    if isinstance(value, BaseException):
        value = {"type": type(value).__qualname__, "args": list(value.args)}
        return {"state": result.state, "exception": value}
    return {"state": result.state, "result": value}


def run_cli(arguments):
    done = CliRunner().invoke(celery, ["-A", "remote_app", *arguments])
    return {"code": done.exit_code, "output": done.output}


def take(step):
    args, kwargs = step.get("args", []), step.get("kwargs", {})
    if "send" in step:
        task = step["send"]
        return app.send_task(task["name"], args=task.get("args", []), kwargs=task.get("kwargs", {}),
                             **task.get("options", {})).id
    if "get" in step:
        return outcome(step["get"], step.get("wait", PATIENCE))
    if "state" in step:
        return app.AsyncResult(step["state"]).state
    if "ask" in step:
        return ask(step, True)
    if "tell" in step:
        return ask(step, False)
    if "inspect" in step:
        inspect = app.control.inspect(destination=step.get("to"), timeout=step.get("timeout", 10))
        return getattr(inspect, step["inspect"])(*args, **kwargs)
    if "control" in step:
        return getattr(app.control, step["control"])(*args, **kwargs)
    if "cli" in step:
        return run_cli(step["cli"])
    return time.sleep(step["sleep"])


def reached(step, result):
    seen = result["replies"].get(step["to"][0]) if "ask" in step else result
    wanted = step["until"]
    if isinstance(wanted, int):
        return seen is not None and len(seen) == wanted
    return seen == wanted


def take_until(step):
    deadline = time.monotonic() + PATIENCE
    result = take(step)
    results = [result]
    while "until" in step and not reached(step, result):
        if time.monotonic() > deadline:
            sys.exit(f"{step} came to {results[:3]} … {results[-3:]} in {len(results)} times")
        time.sleep(0.1)
        result = take(step)
        results.append(result)
    return result


def main():
    # A result that is collected while another one unsubscribes stops redis-py for good.
    gc.disable()
    print(json.dumps([take_until(step) for step in json.loads(sys.argv[1])], default=str))


if __name__ == "__main__":
    main()
