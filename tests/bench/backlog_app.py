"""The Python peer of the backlog's benchmark: a task that our workers do not have."""

from peer_app import app


@app.task(name="bots.noop")
def noop():
    return None
