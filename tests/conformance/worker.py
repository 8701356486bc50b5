

# Appended to the suite's `conftest.py`: the worker is another process.

import base64
import contextlib
import platform
import signal
import subprocess
import sys
import threading

from celery.result import AsyncResult
from celery.signals import task_received
from celery.utils.nodenames import anon_nodename
from celery.worker import state as worker_state


def _stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _rust_worker():
    environment = dict(os.environ)
    environment.update(
        CELERY_BROKER_URL=TEST_BROKER,
        CELERY_RESULT_BACKEND=TEST_BACKEND,
        REDIS_URL=TEST_BACKEND,
        CELERY_RESULT_EXTENDED='true',
        LOG_LEVEL='info',
    )
    log = open(os.environ['WORKER_LOG'], 'ab')
    process = subprocess.Popen(
        [os.environ['RUST_WORKER'], '--celery-suite', '-E', '-c', '1', '-n', anon_nodename()],
        env=environment, stdout=log, stderr=log,
    )
    try:
        yield
    finally:
        _stop(process)


@contextlib.contextmanager
def _python_worker():
    log = open(os.environ['WORKER_LOG'] + '.python', 'ab')
    process = subprocess.Popen(
        [sys.executable, '-m', 'celery', '-A', 't.integration.python_worker', 'worker',
         '-n', f'python@{platform.node()}', '-c', '1', '-E', '--loglevel', 'INFO'],
        stdout=log, stderr=log,
    )
    try:
        yield
    finally:
        _stop(process)


@pytest.fixture(scope='session')
def celery_session_worker(celery_session_app, celery_includes):
    for module in celery_includes:
        celery_session_app.loader.import_task_module(module)
    expected = 1
    with contextlib.ExitStack() as workers:
        if os.environ.get('WORKERS', 'rust') != 'python':
            workers.enter_context(_rust_worker())
        if os.environ.get('WORKERS', 'rust') != 'rust':
            workers.enter_context(_python_worker())
        if os.environ.get('WORKERS') == 'mixed':
            expected = 2
        for _ in range(60):
            if len(celery_session_app.control.ping(timeout=0.5)) >= expected:
                break
        else:
            pytest.fail('the worker does not answer')
        outside = _Outside(celery_session_app)
        outside.start()
        yield
        outside.ended.set()


class _Request:
    """What the suite reads of a request, from the message and from what the worker said about it."""

    def __init__(self, message):
        headers = message['headers']
        body = json.loads(base64.b64decode(message['body']))
        self.__dict__.update(headers)
        self.stamps = headers.get('stamps') or {}
        self.stamped_headers = headers.get('stamped_headers') or []
        self.errbacks = body[2].get('errbacks')
        self.callbacks = body[2].get('callbacks')
        self._Request__payload = body


class _Outside:
    """What the suite looks for inside the worker's process, learnt from outside.

    Redis shows every message that is pushed, and the worker's events tell which it has received and which have succeeded.
    """

    def __init__(self, app):
        self.app = app
        self.messages = {}
        self.seen = set()
        self.ended = threading.Event()

    def start(self):
        for run in (self.watch_messages, self.watch_events):
            threading.Thread(target=run, daemon=True).start()
        get, outside = AsyncResult.get, self

        def get_and_wait(result, *args, **kwargs):
            """A Python worker has called the receivers of `task_received` before there is a result."""
            try:
                return get(result, *args, **kwargs)
            finally:
                end = time.monotonic() + 2
                while task_received.receivers and result.id not in outside.seen and time.monotonic() < end:
                    time.sleep(0.01)

        AsyncResult.get = get_and_wait

    def watch_messages(self):
        with get_redis_connection().monitor() as monitor:
            for command in monitor.listen():
                words = command['command'].split(' ', 2)
                if len(words) < 3 or words[0].upper() not in ('LPUSH', 'RPUSH') or '"headers"' not in words[2]:
                    continue
                with contextlib.suppress(ValueError, KeyError):
                    message = json.loads(words[2].replace('\\\\', '\\'))
                    self.messages[message['headers']['id']] = message

    def watch_events(self):
        while not self.ended.is_set():
            with contextlib.suppress(OSError, TimeoutError), self.app.connection_for_read() as connection:
                receiver = self.app.events.Receiver(
                    connection, handlers={'task-received': self.received, 'task-succeeded': self.succeeded})
                receiver.capture(timeout=None)

    def received(self, event):
        # The message was pushed before; Redis may report it a moment later.
        for _ in range(50):
            if event['uuid'] in self.messages:
                break
            time.sleep(0.01)
        message = self.messages.get(event['uuid'])
        if message:
            task_received.send(sender=None, request=_Request(message))
        self.seen.add(event['uuid'])

    def succeeded(self, event):
        worker_state.successful_requests.add(event['uuid'])
