"""Sends tasks to workers and looks at what Flower shows of them: its HTTP API, and its pages in a browser.

    flower_pages.py URL NODE...

The queue of each node is the part before the `@`. Prints one JSON object:

    tasks       label -> node name -> task id
    api         task id -> the task in `/api/tasks`
    workers     node name -> the worker in `/workers?json=1`
    metrics     node name -> the samples of `/metrics` with that label, without those that are times
    pages       path -> HTTP status
    browser     `workers` and `tasks`: rows of the tables, as they are read; `task`: the text of a task's page;
                `complaints`: exceptions and failed requests on the pages; `worker`: node name -> the text of the
                worker's page with all its tabs; `revoked`: node name -> states of the scheduled and of a running task
                after a click on the button of each task's page
"""

import asyncio
import json
import re
import sys
import time
import urllib.error
import urllib.request

from browser import PATIENCE, Browser
from tests_app import app

ORDERS = {
    "success": ("tests.add", (2, 3), {}),
    "failure": ("tests.fail", ("boom",), {}),
    "retry": ("tests.retry", (1,), {}),
    "text": ("tests.echo", ("it's <b>text</b>",), {}),
    "expired": ("tests.noop", (), {"expires": -5}),
    "scheduled": ("tests.noop", (), {"countdown": 3600}),
}
FINAL = {"SUCCESS", "FAILURE", "REVOKED"}
ROWS = """
    Array.from(document.querySelectorAll('#{table} tbody tr'))
        .map(row => Array.from(row.cells).map(cell => cell.innerText.trim()))
"""


class Flower:
    def __init__(self, url):
        self.url = url

    def read(self, path):
        """Status and text of a page."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def json(self, path):
        status, text = self.read(path)
        if status != 200:
            sys.exit(f"{path}: {status} {text}")
        return json.loads(text)

    def until(self, what, check):
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if (value := check()) is not None:
                    return value
            except (urllib.error.URLError, ConnectionError):
                # It is not up yet.
                pass
            if time.monotonic() > deadline:
                sys.exit(f"no {what}: {self.read('/workers?json=1')} {self.read('/api/tasks')}")
            time.sleep(0.1)

    def workers(self):
        return {worker["hostname"]: worker for worker in self.json("/workers?json=1")["data"]}

    def online(self, nodes):
        workers = self.workers()
        return workers if all(workers.get(node, {}).get("status") for node in nodes) else None

    def settled(self, nodes):
        workers = self.workers()
        counts = {(workers[node]["active"], workers[node]["processed"]) for node in nodes}
        return workers if len(counts) == 1 else None

    def ended(self, tasks):
        """All tasks, once all have ended but for those whose time has not come."""
        listed = self.json("/api/tasks")
        for label, ids in tasks.items():
            ends = {"RECEIVED"} if label == "scheduled" else FINAL
            if any(listed.get(task_id, {}).get("state") not in ends for task_id in ids.values()):
                return None
        return listed

    def metrics(self, nodes):
        """Of the samples with a worker, those that count, once each worker's first heartbeat has added its own."""
        found = {node: {} for node in nodes}
        for line in self.read("/metrics")[1].splitlines():
            if sample := re.fullmatch(r'(flower_\w+)\{(.*)worker="([^"]+)"(.*)\} (\S+)', line):
                name, before, node, after, value = sample.groups()
                # Of a retry chance decides whether it waits, and so whether it counts as prefetched.
                if node in found and not re.search("_created|_seconds|prefetched.*retry", name + before + after):
                    found[node][f"{name}{{{before}{after}}}"] = float(value)
        beaten = lambda of_node: "flower_worker_number_of_currently_executing_tasks{}" in of_node
        return found if all(map(beaten, found.values())) else None


async def press(flower, page, task_id, button, state):
    """Presses a button of a task's page, and waits until the task has the state."""
    await page.open(f"{flower.url}/task/{task_id}")
    await page.until(f"document.querySelector('#{button}') !== null")
    await page.evaluate(f"document.querySelector('#{button}').click()")
    await page.until(f"document.querySelector('#{button}').disabled")
    api = f"/api/task/info/{task_id}"
    await asyncio.to_thread(
        flower.until, f"{state} of {task_id}", lambda: flower.json(api)["state"] == state or None
    )


async def revoke(flower, page, nodes, tasks):
    states = {}
    for node in nodes:
        queue = node.partition("@")[0]
        running = app.send_task("tests.sleep", args=(600,), queue=queue).id
        check = lambda: running in (listed := flower.json("/api/tasks")) and listed[running]["state"] == "STARTED" or None
        await asyncio.to_thread(flower.until, "a running task", check)
        await press(flower, page, running, "task-terminate", "REVOKED")
        soon = app.send_task("tests.noop", queue=queue, countdown=6).id
        check = lambda: soon in flower.json("/api/tasks") or None
        await asyncio.to_thread(flower.until, "a scheduled task", check)
        await press(flower, page, soon, "task-revoke", "REVOKED")
        states[node] = [app.AsyncResult(task_id).state for task_id in (running, soon)]
    return states


async def look(flower, nodes, tasks):
    async with Browser() as page:
        await page.open(f"{flower.url}/workers")
        for node in nodes:
            await page.until(f"/{node}[\\s\\S]*Online/.test(document.querySelector('#workers-table').innerText)")
        workers = await page.evaluate(ROWS.format(table="workers-table"))
        await page.open(f"{flower.url}/tasks")
        count = sum(len(ids) for ids in tasks.values())
        await page.until(f"document.querySelectorAll('#tasks-table tbody tr').length >= {count}")
        listed = await page.evaluate(ROWS.format(table="tasks-table"))
        texts = {}
        for label in ("text", "failure"):
            task_id = tasks[label][nodes[0]]
            # As a person gets there: by a click on the task in the list.
            await page.open(f"{flower.url}/tasks")
            link = f"document.querySelector('a[href*=\"/task/{task_id}\"]')"
            await page.until(f"{link} !== null")
            await page.evaluate(f"{link}.click()")
            await page.until(f"location.pathname.endsWith('/task/{task_id}') && document.readyState === 'complete'")
            texts[label] = await page.evaluate("document.body.innerText")
        worker = {}
        for node in nodes:
            await page.open(f"{flower.url}/worker/{node}")
            # The text of hidden tabs, too.
            worker[node] = await page.evaluate("document.querySelector('main, body').textContent")
        return {
            "workers": workers,
            "tasks": listed,
            "task": texts,
            "worker": worker,
            "revoked": await revoke(flower, page, nodes, tasks),
            "complaints": page.complaints,
        }


def main():
    url, *nodes = sys.argv[1:]
    flower = Flower(url)
    flower.until("workers", lambda: flower.online(nodes))
    tasks = {label: {} for label in ORDERS}
    for node in nodes:
        for label, (name, args, options) in ORDERS.items():
            sent = app.send_task(name, args=args, queue=node.partition("@")[0], **options)
            tasks[label][node] = sent.id
    ids = [task_id for of_label in tasks.values() for task_id in of_label.values()]
    api = flower.until("end of all tasks", lambda: flower.ended(tasks))
    workers = flower.until("the last heartbeats", lambda: flower.settled(nodes))
    metrics = flower.until("samples of heartbeats", lambda: flower.metrics(nodes))
    pages = ["/", "/workers", "/tasks", "/broker", "/metrics", "/healthcheck", "/api/workers", "/api/task/types"]
    pages += [f"/worker/{node}" for node in nodes] + ["/api/workers?refresh=1", "/api/queues/length"]
    pages += [f"/task/{task_id}" for task_id in ids] + [f"/api/task/info/{task_id}" for task_id in ids]
    report = {
        "tasks": tasks,
        "api": api,
        "pages": {path: flower.read(path)[0] for path in pages},
        "browser": asyncio.run(look(flower, nodes, tasks)),
        "workers": workers,
        "metrics": metrics,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
