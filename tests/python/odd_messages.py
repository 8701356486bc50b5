"""Sends odd messages of a task that only Python workers have, and prints {case: [what was sent, what the task saw]}.

The queue is shared with workers that do not have the task: each must reach a Python worker as it was sent.
"""

import base64
import json

from canvas_app import app

NAME = "tests.g\u00f6rev"
NAN = float("nan")


def nested(depth):
    value = NAN
    for _ in range(depth):
        value = [value]
    return value


VALUES = {
    "plain": 1,
    "nan": [NAN, float("inf"), float("-inf")],
    "surrogate": "f\udcff.txt",
    "deep": nested(150),
    "name of another": ["tests.echo", {"task": "tests.echo"}, NAN],
}


def edited(element):
    """The same message in other spellings that kombu reads: the edit by its name."""
    message = json.loads(element)

    def with_body(body):
        return json.dumps({**message, "body": body}).encode()

    def with_header(value):
        headers = {**message["headers"], "x-odd": value, "x-task": {"task": "tests.echo"}}
        return json.dumps({**message, "headers": headers}).encode()

    first = {"headers": {"task": "tests.echo"}}
    lines = base64.encodebytes(base64.b64decode(message["body"])).decode()
    return {
        "MIME base64": with_body(lines),
        "nan in a header": with_header(NAN),
        "surrogate in a header": with_header("\ud800"),
        "depth in a header": with_header(nested(150)),
        "latin-1 in a header": with_header("latin-MARK").replace(b"MARK", b"\xe9"),
        "not ascii": json.dumps(message, ensure_ascii=False).encode(),
        "another object before": json.dumps({"x": first, **message}).encode(),
    }


def main():
    sent = []
    for protocol in (1, 2):
        app.conf.task_protocol = protocol
        for case, value in VALUES.items():
            sent.append((f"{protocol} {case}", value, app.send_task(NAME, args=[value], queue="odd")))
        result = app.send_task(NAME, args=[VALUES["nan"]], queue="elsewhere")
        with app.connection_for_write() as connection:
            client = connection.default_channel.client
            element = client.rpop("elsewhere")
            for case, element in edited(element).items():
                task_id = f"{protocol}-{case.replace(' ', '-')}"
                body = base64.b64decode(json.loads(element.decode(errors="replace"))["body"])
                body = base64.b64encode(body.replace(result.id.encode(), task_id.encode())).decode()
                if case == "MIME base64":
                    body = base64.encodebytes(base64.b64decode(body)).decode()
                old = json.dumps(json.loads(element.decode(errors="replace"))["body"]).encode()
                element = element.replace(old, json.dumps(body).encode()).replace(result.id.encode(), task_id.encode())
                client.lpush("odd", element)
                sent.append((f"{protocol} {case}", VALUES["nan"], app.AsyncResult(task_id)))
    print(json.dumps({case: [repr(value), result.get(timeout=60)] for case, value, result in sent}))


if __name__ == "__main__":
    main()
