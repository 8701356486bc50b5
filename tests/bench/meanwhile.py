"""Runs work in a thread during a measurement."""

import concurrent.futures
import contextlib
import threading


@contextlib.contextmanager
def meanwhile(work):
    """Runs `work` in a thread beside the body. Its argument is an event that is set when the body ends. An exception of
    `work` is raised here, because it makes the measurement void."""
    over = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        working = pool.submit(work, over)
        try:
            yield
        finally:
            over.set()
        working.result()
