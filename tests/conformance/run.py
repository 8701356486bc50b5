"""Runs Celery's own integration suite against the Rust worker.

The suite is that of a release's source distribution, which pip fetches. Its `conftest.py` starts workers inside pytest; the
text of `worker.py`, appended to it, starts them as processes instead: ours, a Python one, or both on one queue.

    run.py --release 5.7.0 --worker target/debug/test-worker [--workers rust|python|mixed] [--short] [pytest options]
    run.py --release 5.7.0 --fetch

Prints a table, and fails if a test fails that `reasons.json` does not explain, or passes that it does.
"""

import argparse
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import xml.etree.ElementTree

HERE = pathlib.Path(__file__).parent
FILES = {
    'canvas': ['test_canvas.py', 'test_group_chains.py'],
    'rest': ['test_tasks.py', 'test_inspect.py', 'test_redis_backend.py'],
}
# Each of its tests expects that exactly one node answers.
ONE_NODE = 'test_inspect.py'
# One of each kind of canvas and of each thing that a task can do.
SHORT = (
    'test_ignore_result or test_reject or test_retry_switches or test_replaced_task or test_add_to_chord'
    ' or test_nested_chain_group_lone or test_chord_error or test_complex_chain or test_second_order_replace'
    ' or test_chain_inside_task or test_add_chord_to_chord or test_link_error or test_errback'
    ' or test_request_time_limits or test_task_retried or test_starmap or test_chunks or test_stamp'
)


def download(release, cache):
    """The source distribution of a release."""
    archive = cache / f'celery-{release}.tar.gz'
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [sys.executable, '-m', 'pip', 'download', '--quiet', '--disable-pip-version-check', '--no-deps',
             '--no-binary', 'celery', '--dest', str(cache), f'celery=={release}'],
            check=True,
        )
    return archive


def unpack(release, cache):
    """The suite of a release, in a temporary directory."""
    archive = download(release, cache)
    target = pathlib.Path(tempfile.mkdtemp(prefix=f'celery-{release}-', dir=cache))
    prefix = f'celery-{release}/t/'
    with tarfile.open(archive) as source:
        members = [member for member in source.getmembers()
                   if member.name.startswith(prefix) and ('/' not in member.name.removeprefix(prefix)
                                                          or member.name.startswith(f'{prefix}integration/'))]
        for member in members:
            member.name = member.name.removeprefix(f'celery-{release}/')
        source.extractall(target, members=members, filter='data')
    (target / 't/__init__.py').touch()
    with open(target / 't/integration/conftest.py', 'a') as conftest:
        conftest.write((HERE / 'worker.py').read_text())
    shutil.copy(HERE / 'python_worker.py', target / 't/integration/python_worker.py')
    return target


def free_port():
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


def results(report):
    """Outcome by test, from a JUnit report."""
    outcomes = {}
    for case in xml.etree.ElementTree.parse(report).iter('testcase'):
        name = case.get('classname', '').rsplit('.', 1)[-1] + '::' + case.get('name', '')
        kinds = {child.tag for child in case}
        if kinds & {'failure', 'error'}:
            outcome = 'failed'
        elif 'skipped' in kinds:
            outcome = outcomes.get(name, 'skipped')
        else:
            outcome = outcomes.get(name, 'passed')
        outcomes[name] = outcome
    return outcomes


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--release', required=True)
    parser.add_argument('--worker')
    parser.add_argument('--workers', choices=['rust', 'python', 'mixed'], default='rust')
    parser.add_argument('--short', action='store_true')
    parser.add_argument('--fetch', action='store_true')
    # Beside the interpreter's environment, where `make setup` has put the source distribution.
    parser.add_argument('--cache', type=pathlib.Path, default=pathlib.Path(sys.prefix) / 'suite')
    arguments, options = parser.parse_known_args()
    if arguments.fetch:
        download(arguments.release, arguments.cache.resolve())
        return
    suite = unpack(arguments.release, arguments.cache.resolve())
    try:
        failed = run(arguments, options, suite)
    finally:
        shutil.rmtree(suite)
    sys.exit(1 if failed else 0)


def run(arguments, options, suite):
    """Runs the suite on a private Redis; true if something failed that has no reason."""
    reasons = json.loads((HERE / 'reasons.json').read_text())
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        redis = subprocess.Popen(
            ['redis-server', '--port', str(port), '--bind', '127.0.0.1', '--save', '', '--dir', directory],
            stdout=subprocess.DEVNULL,
        )
        try:
            while subprocess.run(['redis-cli', '-p', str(port), 'ping'], capture_output=True).stdout != b'PONG\n':
                time.sleep(0.1)
            url = f'redis://127.0.0.1:{port}/0'
            log = arguments.cache.resolve() / f'worker-{arguments.release}-{arguments.workers}.log'
            log.unlink(missing_ok=True)
            environment = dict(
                os.environ, TEST_BROKER=url, TEST_BACKEND=url, REDIS_HOST='127.0.0.1', REDIS_PORT=str(port),
                RUST_WORKER=str(pathlib.Path(arguments.worker).resolve()), WORKERS=arguments.workers,
                WORKER_LOG=str(log), PYTHONPATH=str(suite),
            )
            failed = False
            for group, files in FILES.items():
                report = pathlib.Path(directory) / f'{group}.xml'
                mixed = arguments.workers == 'mixed'
                files = [f't/integration/{file}' for file in files if not (mixed and file == ONE_NODE)]
                # Older releases have fewer of them.
                files = [file for file in files if (suite / file).exists()]
                command = [sys.executable, '-m', 'pytest', '-q', '--tb', 'native', '-p', 'no:cacheprovider', '--junitxml', str(report),
                           '--timeout', '300', '-o', 'junit_family=xunit1',
                           '-o', 'python_classes=test_*', '-p', 'celery.contrib.pytest',
                           '-W', 'ignore::pytest.PytestUnknownMarkWarning', *files, *options]
                if arguments.short:
                    command += ['-k', SHORT]
                subprocess.run(command, cwd=suite, env=environment)
                failed |= summarise(arguments, group, results(report), reasons)
        finally:
            redis.terminate()
            redis.wait()
    return failed


def summarise(arguments, group, outcomes, reasons):
    counted = {kind: sum(outcome == kind for outcome in outcomes.values()) for kind in ('passed', 'failed', 'skipped')}
    print(f'conformance: celery {arguments.release}, {arguments.workers}, {group}: '
          f'{counted["passed"]} passed, {counted["failed"]} failed, {counted["skipped"]} skipped by the suite')
    if arguments.workers == 'mixed' and ONE_NODE in FILES[group]:
        print(f'  {ONE_NODE}: not run, each of its tests expects that one node answers')
    unexplained = not counted['passed']
    for name, outcome in outcomes.items():
        reason = reasons.get(name.split('[')[0])
        if outcome == 'failed':
            print(f'  {name}: {reason or "FAILED"}')
            unexplained |= reason is None
        elif outcome == 'passed' and reason and arguments.workers == 'rust':
            print(f'  {name}: passes, so remove it from reasons.json')
            unexplained = True
    return unexplained


if __name__ == '__main__':
    main()
