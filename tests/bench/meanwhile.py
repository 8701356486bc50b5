"""Something that goes on in a thread while something else is measured."""

import concurrent.futures
import contextlib
import threading


@contextlib.contextmanager
def meanwhile(work):
    """Runs `work` beside the body; its argument is the event that is set when the body has ended. What it raises is raised
    here: a measurement without its company is none."""
    over = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        working = pool.submit(work, over)
        try:
            yield
        finally:
            over.set()
        working.result()
