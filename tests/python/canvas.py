"""Workflows, each sent to several sets of queues, and what a client sees of their results.

    canvas.py MODES [NAME ...]

MODES is a JSON object: name of a mode to the list of queues that its tasks are sent to in turn. Without names all
workflows are run. All are sent before the first is waited for.

Prints {workflow: {mode: what was seen}}. What is seen of a result is its state, its value or exception, its children
and what came before it, as far as a client can follow; ids are replaced by the order in which they were met.
"""

import datetime
import faulthandler
import gc
import json
import sys
import time
import uuid

import celery
from celery import chain, chord, group
from celery.canvas import StampingVisitor, chunks, xmap, xstarmap
from celery.result import AsyncResult, GroupResult

from canvas_app import app

PATIENCE = 90.0
WORKFLOWS = {}
IGNORED = set()


def workflow(build):
    WORKFLOWS[build.__name__] = build
    return build


def workflow_since(*version):
    """For what hangs older workers or leaves a client waiting with them.

    A worker of 5.5.2 that ends a chord with groups in its header waits for each of their results, without an end when
    the result is stored between its look and its subscription. On a busy machine it does, also among Python workers
    alone, and each time a process of its pool is gone.
    """
    return workflow if celery.VERSION[:3] >= version else lambda build: build


class Mode:
    """Makes signatures for the queues of a mode in turn."""

    def __init__(self, queues):
        self.queues = queues
        self.made = 0

    def queue(self):
        self.made += 1
        return self.queues[self.made % len(self.queues)]

    def task(self, name, *args, immutable=False, kwargs=None, queue=None, **options):
        return app.signature(
            f"tests.{name}",
            args=args,
            kwargs=kwargs or {},
            immutable=immutable,
            queue=queue or self.queue(),
            **options,
        )

    def add(self, *args, **options):
        return self.task("add", *args, **options)

    def xsum(self, **options):
        return self.task("xsum", **options)

    def echo(self, *args, **options):
        return self.task("echo", *args, **options)

    def fail(self, text="boom", **options):
        return self.task("fail", text, immutable=True, **options)

    def request(self, *args, **options):
        return self.task("request", *args, queue="python", **options)

    def known(self, name="echo", *args, **options):
        """A signature and the result that it will have."""
        task_id = str(uuid.uuid4())
        return self.task(name, *args, task_id=task_id, **options), app.AsyncResult(task_id)

    def ignored(self, *args):
        """A signature whose result is not stored."""
        signature, result = self.known("add", *args, ignore_result=True)
        IGNORED.add(result.id)
        return signature


# One task, and what is linked to it.


@workflow
def one_task(m):
    return m.add(1, 2).apply_async()


@workflow
def callback(m):
    after, seen = m.known("add", 10)
    return m.add(1, 2).apply_async(link=after), seen


@workflow
def immutable_callback(m):
    after, seen = m.known("add", 10, 20, immutable=True)
    return m.add(1, 2).apply_async(link=after), seen


@workflow
def several_callbacks(m):
    links = [m.known("add", number) for number in range(3)]
    return m.add(1, 2).apply_async(link=[link for link, _ in links]), *[seen for _, seen in links]


@workflow
def callback_with_a_callback(m):
    last, seen = m.known("add", 100)
    first, seen_first = m.known("add", 10)
    first.link(last)
    return m.add(1, 2).apply_async(link=first), seen_first, seen


@workflow
def callback_is_a_chain(m):
    return m.add(1, 2).apply_async(link=chain(m.add(3), m.add(4)))


@workflow
def callback_is_a_group(m):
    return m.add(1, 2).apply_async(link=group(m.add(3), m.add(4)))


@workflow
def callback_is_a_chord(m):
    body, seen = m.known("xsum")
    return m.add(1, 2).apply_async(link=chord([m.add(3), m.add(4)], body)), seen


@workflow
def callbacks_of_every_kind(m):
    body, seen = m.known("xsum")
    links = [m.add(3), group(m.add(4), m.add(5)), chain(m.add(6), m.add(7)), chord([m.add(8), m.add(9)], body)]
    return m.add(1, 2).apply_async(link=links), seen


@workflow
def callback_with_options(m):
    after, seen = m.known("request", queue="python", priority=6, countdown=0.5, expires=60, time_limit=30,
                          soft_time_limit=20, shadow="other", headers={"x-trace": "t"}, ignore_result=False)
    after["options"]["queue"] = "python"
    return m.add(1, 2).apply_async(link=after), seen


@workflow
def callback_with_an_eta(m):
    eta = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=1)
    after, seen = m.known("request", eta=eta)
    after["options"]["queue"] = "python"
    return m.add(1, 2).apply_async(link=after), seen


@workflow
def callback_is_kept_by_a_retry(m):
    after, seen = m.known("add", 10)
    return m.task("retry", 1).apply_async(link=after), seen


@workflow
def failure(m):
    return m.fail().apply_async()


@workflow
def errback(m):
    back, seen = m.known("echo")
    return m.fail().apply_async(link_error=back), seen


@workflow
def several_errbacks(m):
    # With one parameter each: what takes more, a Python worker calls in its own process.
    backs = [m.known("echo"), m.known("echo", "own", immutable=True)]
    return m.fail().apply_async(link_error=[back for back, _ in backs]), *[seen for _, seen in backs]


@workflow
def no_callback_after_a_failure(m):
    back, seen = m.known("echo")
    after, _ = m.known("add", 10)
    return m.fail().apply_async(link=after, link_error=back), seen


@workflow
def retries_used_up_or_not(m):
    return m.task("retry", 2).apply_async()


# Chains.


@workflow
def chain_of_two(m):
    return chain(m.add(1, 2), m.add(3)).apply_async()


@workflow
def chain_of_many(m):
    return chain(m.add(0, 0), *[m.add(number) for number in range(25)]).apply_async()


@workflow
def chain_with_immutable_steps(m):
    return chain(m.add(1, 2), m.add(3, 4, immutable=True), m.add(5)).apply_async()


@workflow
def chain_that_fails_in_the_middle(m):
    return chain(m.add(1, 2), m.fail(), m.add(3), m.add(4)).apply_async()


@workflow
def chain_with_an_errback(m):
    back, seen = m.known("echo")
    return chain(m.add(1, 2), m.fail(), m.add(3)).apply_async(link_error=back), seen


@workflow
def chain_with_a_callback(m):
    after, seen = m.known("add", 10)
    return chain(m.add(1, 2), m.add(3)).apply_async(link=after), seen


@workflow
def chain_with_a_retry(m):
    return chain(m.add(0, 1), m.task("retry"), m.add(10)).apply_async()


@workflow
def chain_with_countdown_priority_and_expiry(m):
    middle = m.request(priority=3, countdown=0.3, expires=60)
    return chain(m.add(1, 2, priority=9), middle, m.echo(immutable=False, priority=6)).apply_async()


@workflow
def chain_in_a_chain(m):
    return chain(m.add(1, 2), chain(m.add(3), m.add(4)), m.add(5)).apply_async()


@workflow
def chain_of_keyword_arguments(m):
    return chain(m.add(1, 2), m.task("add", kwargs={"y": 4})).apply_async()


@workflow
def chain_whose_middle_is_ignored(m):
    return chain(m.add(1, 2), m.ignored(3), m.add(4)).apply_async()


@workflow
def chain_with_ids_headers_and_shadow(m):
    last = m.request(shadow="shown", headers={"x-trace": "41"}, time_limit=60, soft_time_limit=50)
    return chain(m.add(1, 2), m.add(3), last).apply_async()


class Stamps(StampingVisitor):
    def on_signature(self, sig, **headers):
        return {"trace": "abc", "numbers": [1, 2], "stamped_headers": ["trace", "numbers"]}


@workflow
def stamped_chain(m):
    sig = chain(m.add(1, 2), m.request(), m.echo())
    sig.stamp(Stamps())
    return sig.apply_async()


@workflow
def stamped_chord(m):
    sig = chord([m.add(1, 2), m.add(3, 4)], m.request())
    sig.stamp(Stamps())
    return sig.apply_async()


# Groups.


@workflow
def group_of_three(m):
    return group(m.add(number, 1) for number in range(3)).apply_async()


@workflow
def group_of_chains(m):
    return group(chain(m.add(1, 2), m.add(3)), chain(m.add(4, 5), m.add(6))).apply_async()


@workflow
def group_in_a_group(m):
    return group(m.add(1, 2), group(m.add(3, 4), m.add(5, 6))).apply_async()


@workflow
def group_with_a_failure(m):
    back, seen = m.known("echo")
    return group(m.add(1, 2), m.fail(link_error=back), m.add(3, 4)).apply_async(), seen


@workflow
def group_with_a_callback(m):
    after, seen = m.known("add", 5)
    tasks = group(m.add(1, 2), m.add(3, 4))
    tasks.link(m.task("add", 1, 1))
    return tasks.apply_async()


@workflow
def chain_that_ends_in_a_group(m):
    return chain(m.add(1, 2), m.add(3), group(m.add(4), m.add(5))).apply_async()


@workflow
def chain_that_ends_in_a_group_of_chains(m):
    return chain(m.add(1, 2), group(chain(m.add(3), m.add(4)), m.add(5))).apply_async()


@workflow
def chain_that_ends_in_a_group_of_one(m):
    return chain(m.add(1, 2), group([m.add(3)])).apply_async()


# Chords.


@workflow
def chord_of_three(m):
    return chord([m.add(number, number) for number in range(3)], m.xsum()).apply_async()


@workflow
def chord_of_one(m):
    return chord([m.add(1, 2)], m.xsum()).apply_async()


@workflow
def chord_of_nothing(m):
    return chord([], m.xsum()).apply_async()


@workflow
def chord_of_many(m):
    return chord([m.add(number, number) for number in range(120)], m.xsum()).apply_async()


@workflow
def chord_keeps_the_order(m):
    header = [m.task("sleep", 0.4), m.echo("second"), m.task("sleep", 0.2), m.echo("fourth")]
    return chord(header, m.echo()).apply_async()


@workflow
def chord_of_odd_values(m):
    values = [None, True, "币安 \U0001f680 \"\\", 12345678901234567890123, -1.5, {"a": [1, {"b": None}]}, [], ""]
    return chord([m.echo(value) for value in values], m.echo()).apply_async()


@workflow
def chord_with_an_immutable_body(m):
    return chord([m.add(1, 2), m.add(3, 4)], m.add(5, 6, immutable=True)).apply_async()


@workflow
def chord_by_operator(m):
    return (group(m.add(1, 2), m.add(3, 4)) | m.xsum()).apply_async()


@workflow
def chord_then_a_task(m):
    return (group(m.add(1, 2), m.add(3, 4)) | m.xsum() | m.add(5)).apply_async()


@workflow
def chord_in_a_chain(m):
    return chain(m.add(1, 2), group(m.add(3), m.add(4)), m.xsum(), m.add(5)).apply_async()


@workflow
def chord_after_two_tasks(m):
    return chain(m.add(1, 2), m.add(3), chord([m.add(4), m.add(5)], m.xsum())).apply_async()


@workflow
def two_chords_in_a_row(m):
    return chain(group(m.add(1, 2), m.add(3, 4)), m.xsum(), group(m.add(5), m.add(6)), m.xsum()).apply_async()


@workflow
def three_chords_in_a_row_and_a_group(m):
    pair = lambda: group(m.add(1), m.add(2))
    steps = [m.add(0, 0), pair(), m.xsum(), pair(), m.xsum(), pair(), m.xsum(), pair()]
    return chain(*steps).apply_async()


@workflow
def chord_whose_body_is_a_chain(m):
    return chord([m.add(1, 2), m.add(3, 4)], chain(m.xsum(), m.add(5), m.add(6))).apply_async()


@workflow
def chord_whose_body_is_a_group(m):
    return chord([m.add(1, 2), m.add(3, 4)], group(m.echo(), m.xsum())).apply_async()


@workflow
def chord_whose_body_is_a_chord(m):
    body = chord([m.xsum(), m.xsum()], m.xsum())
    return chord([m.add(1, 2), m.add(3, 4)], body).apply_async()


@workflow_since(5, 7, 0)
def chord_whose_header_fails_before_a_group_of_chords(m):
    inner, inner_result = m.known("xsum")
    sum_, sum_result = m.known("xsum")
    step, step_result = m.known("add", 1)
    backs = [m.known("echo", immutable=True, kwargs={"value": number}) for number in range(3)]
    errbacks = [back for back, _ in backs]
    inner.link_error(errbacks[0])
    sum_.link_error(errbacks[1])
    members = group(chord([m.add(1)], inner), sum_, chain(m.add(2), step))
    workflow = chord([m.add(1, 2), m.fail()], members)
    workflow.link_error(errbacks[2])
    return workflow.apply_async(), inner_result, sum_result, step_result, *[seen for _, seen in backs]


@workflow
def chord_with_chains_in_its_header(m):
    header = [chain(m.add(1, 2), m.add(3)), chain(m.add(4, 5), m.add(6), m.add(7)), m.add(8, 9)]
    return chord(header, m.xsum()).apply_async()


@workflow_since(5, 7, 0)
def chord_with_groups_in_its_header(m):
    return chord([m.add(1, 2), group(m.add(3, 4), m.add(5, 6))], m.xsum()).apply_async()


@workflow
def chord_with_chords_in_its_header(m):
    inner = lambda: chord([m.add(1, 2), m.add(3, 4)], m.xsum())
    return chord([inner(), inner(), m.add(5, 6)], m.xsum()).apply_async()


@workflow_since(5, 7, 0)
def chord_with_chains_that_end_in_groups_in_its_header(m):
    header = [chain(m.add(1, 2), group(m.add(3), m.add(4))), m.add(5, 6)]
    return chord(header, m.echo()).apply_async()


@workflow
def chord_with_chains_of_chords_in_its_header(m):
    inner = lambda: chain(m.add(1, 2), group(m.add(3), m.add(4)), m.xsum())
    return chord([inner(), inner()], m.xsum()).apply_async()


@workflow
def group_of_chords(m):
    inner = lambda: chord([m.add(1, 2), m.add(3, 4)], m.xsum())
    return group(inner(), inner()).apply_async()


@workflow
def chain_that_ends_in_a_group_of_chords(m):
    inner = lambda: chord([m.add(1), m.add(2)], m.xsum())
    return chain(m.add(1, 2), group(inner(), inner())).apply_async()


@workflow
def group_of_chains_with_chords(m):
    inner = lambda: chain(m.add(1, 2), group(m.add(3), m.add(4)), m.xsum(), m.add(5))
    return group(inner(), m.add(1, 1), inner()).apply_async()


@workflow
def chord_with_a_retry_in_its_header(m):
    return chord([m.task("retry", 1), m.add(1, 2)], m.xsum()).apply_async()


@workflow
def chord_with_ignored_results_in_its_header(m):
    header = [m.ignored(1, 2), m.add(3, 4)]
    return chord(header, m.xsum()).apply_async()


@workflow
def chord_with_a_callback(m):
    after, seen = m.known("add", 10)
    body = m.xsum()
    body.link(after)
    return chord([m.add(1, 2), m.add(3, 4)], body).apply_async(), seen


@workflow
def chord_with_callbacks_in_its_header(m):
    after, seen = m.known("add", 10)
    return chord([m.add(1, 2, link=after), m.add(3, 4)], m.xsum()).apply_async(), seen


@workflow
def chord_whose_body_has_options(m):
    body = m.request(priority=6, countdown=0.3, shadow="body", headers={"x-trace": "c"})
    return chord([m.add(1, 2), m.add(3, 4)], body).apply_async()


@workflow
def chord_whose_header_fails(m):
    return chord([m.add(1, 2), m.fail()], m.xsum()).apply_async()


@workflow
def chord_whose_header_fails_with_an_errback(m):
    back, seen = m.known("echo")
    body = m.xsum()
    body.link_error(back)
    return chord([m.add(1, 2), m.fail()], body).apply_async(), seen


@workflow
def chord_whose_header_is_expired(m):
    return chord([m.add(1, 2, expires=-5), m.add(3, 4)], m.xsum()).apply_async()


@workflow
def chord_whose_body_fails(m):
    back, seen = m.known("echo")
    body = m.fail()
    body.link_error(back)
    return chord([m.add(1, 2), m.add(3, 4)], body).apply_async(), seen


@workflow_since(5, 7, 0)
def chord_in_a_chain_whose_header_fails(m):
    return chain(m.add(1, 2), group(m.add(3), m.fail()), m.xsum(), m.add(5)).apply_async()


@workflow
def chord_with_a_failing_chain_in_its_header(m):
    return chord([chain(m.add(1, 2), m.fail(), m.add(3)), m.add(4, 5)], m.xsum()).apply_async()


@workflow_since(5, 7, 0)
def chord_with_a_failing_group_in_its_header(m):
    header = [chain(m.add(1, 2), group(m.add(3), m.fail())), m.add(5, 6)]
    return chord(header, m.echo()).apply_async()


@workflow
def chord_whose_body_runs_once(m):
    key = str(uuid.uuid4())
    return chord([m.add(number, 0) for number in range(20)], m.task("record", key, immutable=True)).apply_async()


# Values that are none of standard JSON.


def nested(depth):
    value = float("nan")
    for _ in range(depth):
        value = [value]
    return value


ODD_VALUES = [
    float("nan"), float("inf"), float("-inf"), 2**70, "f\udcff.txt", {"\ud800": [float("nan")]},
    nested(130), nested(200), nested(400),
]


@workflow
def odd_arguments(m):
    by_name = [m.task("echo", kwargs={"value": value}) for value in ODD_VALUES]
    return tuple(task.apply_async() for task in [*map(m.echo, ODD_VALUES), *by_name])


@workflow
def odd_arguments_of_the_next_step(m):
    return tuple(chain(m.add(1, 2), m.echo(value, immutable=True)).apply_async() for value in ODD_VALUES)


@workflow
def odd_results_of_the_step_before(m):
    return tuple(chain(m.echo(value), m.echo()).apply_async() for value in ODD_VALUES)


@workflow
def chord_of_odd_results(m):
    late = m.task("sleep", 0.5)
    return (
        chord([m.echo(value) for value in ODD_VALUES] + [late], m.echo()).apply_async(),
        chord([late, *[m.echo(value) for value in ODD_VALUES]], m.echo()).apply_async(),
    )


@workflow_since(5, 7, 0)
def ids_that_are_uuid_objects(m):
    steps = [m.add(number, task_id=uuid.uuid4()) for number in range(3)]
    return m.add(1, 2, task_id=uuid.uuid4()).apply_async(), chain(m.add(1), *steps).apply_async((2,))


# Maps, and tasks that replace themselves.


@workflow
def map_in_a_chain(m):
    items = xmap(m.xsum(queue="python"), [[1, 2], [3, 4]]).set(queue="python", immutable=True)
    return chain(m.add(1, 2), items, m.echo()).apply_async()


@workflow
def starmap_as_a_callback(m):
    seen = str(uuid.uuid4())
    items = xstarmap(m.add(queue="python"), [[1, 2], [3, 4]]).set(queue="python", task_id=seen)
    return m.add(1, 2).apply_async(link=items), app.AsyncResult(seen)


@workflow
def chunks_in_a_header(m):
    parts = chunks(m.add(queue="python"), [[1, 2], [3, 4], [5, 6]], 2).group()
    for part in parts.tasks:
        part.set(queue="python")
    return chord([*parts.tasks, m.add(1, 1)], m.echo()).apply_async()


@workflow
def replaced_in_a_chain(m):
    return chain(m.add(1, 2), m.task("replaced", m.queue(), queue="python"), m.add(10)).apply_async()


@workflow
def replaced_in_a_header(m):
    header = [m.task("replaced", 5, m.queue(), queue="python"), m.add(1, 2)]
    return chord(header, m.xsum()).apply_async()


@workflow
def replaced_by_a_group_in_a_chain(m):
    replaced = m.task("replaced_by_group", m.queue(), queue="python")
    return chain(m.add(1, 2), replaced, m.xsum()).apply_async()


def shown(value):
    """A value, or its `repr` if it is none of standard JSON."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()
    except ValueError:
        return repr(value)
    except TypeError:
        return value
    return repr(value) if "[" * 100 in text else value


class Seen:
    """What a client sees of one workflow."""

    def __init__(self, deadline):
        self.deadline = deadline
        self.ids = {}

    def name(self, task_id):
        return None if task_id is None else self.ids.setdefault(str(task_id), f"#{len(self.ids)}")

    def names(self, value):
        """A value with the ids in it replaced."""
        if isinstance(value, str):
            for task_id, name in self.ids.items():
                value = value.replace(task_id, name)
        if isinstance(value, (list, tuple)):
            return [self.names(each) for each in value]
        if isinstance(value, dict):
            return {name: self.names(each) for name, each in value.items()}
        return value

    def lineage(self, result):
        """The result and what came before it, the first first."""
        line = []
        while result is not None:
            line.insert(0, result)
            result = result.parent
        return [self.result(each) for each in line]

    def result(self, result):
        if isinstance(result, GroupResult):
            return {"group": [self.lineage(member) for member in result.results]}
        about = {"id": self.name(result.id)}
        if result.id in IGNORED:
            return {**about, "state": result.state}
        # Looked up rather than listened for: the client of 5.5 can miss the announcement on a busy machine.
        while not result.ready() and time.monotonic() < self.deadline:
            time.sleep(0.02)
        if not result.ready():
            return {**about, "state": result.state, "timed_out": True}
        value = shown(result.get(propagate=False))
        meta = result._get_task_meta()
        about["state"] = meta["status"]
        if celery.VERSION[:2] >= (5, 7):
            # Before, a chord's body did not belong to the group of its header.
            about["in_group"] = meta.get("group_id") is not None
        children = [child for child in result.children or [] if str(child.id) not in self.ids]
        about["children"] = [self.result(child) for child in children]
        if isinstance(value, BaseException):
            arguments = [self.names(each) for each in value.args]
            about["exception"] = [type(value).__module__, type(value).__qualname__, arguments]
        else:
            about["value"] = self.names(value)
        return about


def main():
    # A result that is collected while another one unsubscribes stops redis-py for good.
    gc.disable()
    # Should it stand still all the same, it says where.
    faulthandler.dump_traceback_later(150, exit=True)
    modes = json.loads(sys.argv[1])
    chosen = sys.argv[2:] or list(WORKFLOWS)
    sent = []
    for mode, queues in modes.items():
        for name in chosen:
            results = WORKFLOWS[name](Mode(queues))
            sent.append((name, mode, results if isinstance(results, tuple) else (results,)))
    deadline = time.monotonic() + PATIENCE
    seen = {}
    for name, mode, results in sent:
        each = Seen(deadline)
        seen.setdefault(name, {})[mode] = [each.lineage(result) for result in results]
    print(json.dumps(seen, default=str))


if __name__ == "__main__":
    main()
