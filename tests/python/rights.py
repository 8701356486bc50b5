"""A client of workers with few rights: sends a chord of two warm-ups, a task that ignores its result, one with a countdown,
a revoked one, and a ping.

    rights.py [PREFIX]

PREFIX is the `global_keyprefix` of broker and result backend. Prints the outcome of each.
"""

import gc
import json
import sys
import uuid

from celery import chord

from tradebot_app import WARMUPS, app

PATIENCE = 60
SPOT, FUTURES = WARMUPS

if len(sys.argv) > 1:
    app.conf.broker_transport_options = {"global_keyprefix": sys.argv[1]}
    app.conf.result_backend_transport_options = {"global_keyprefix": sys.argv[1]}


def main():
    # A result that is collected while another one unsubscribes stops redis-py for good.
    gc.disable()
    body = app.signature(SPOT, immutable=True)
    ended = chord([app.signature(SPOT), app.signature(FUTURES)], body).apply_async()
    linked = app.send_task(SPOT, link=app.signature(FUTURES, immutable=True))
    app.send_task(SPOT, ignore_result=True)
    later = app.send_task(SPOT, countdown=1)
    revoked = str(uuid.uuid4())
    app.control.revoke(revoked, reply=True, timeout=5)
    gone = app.send_task(SPOT, task_id=revoked)
    answer = {
        "chord": ended.get(timeout=PATIENCE),
        "linked": linked.get(timeout=PATIENCE),
        "later": later.get(timeout=PATIENCE),
        "revoked": type(gone.get(timeout=PATIENCE, propagate=False)).__name__,
        "ping": app.control.inspect(timeout=5).ping(),
        "stats": sorted(app.control.inspect(timeout=5).stats() or {}),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
