"""
Celery workers with a stream, in their own processes, and the tasks in their queue.

    project = CeleryProject(tmp_path, broker=redis_url, feed=server.url)
    with project.worker("--datastream") as worker:
        worker.wait_stats(lambda stats: stats["messages_handled"] == 20)
        assert worker.stop() == 0
    tasks = project.published()

The worker consumes an empty queue, so a test can count the forwarded tasks in the project's queue.
With ``consume=True`` it consumes the project's queue.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import kombu

ROOT = Path(__file__).parents[2]

MODULE = '''
"""A project as users write it; what differs between tests comes from project.json."""

import json, os, threading, time
from pathlib import Path

from celery import Celery
from datastream_ws import Client
from datastream_ws.celery import forward, install

HERE = Path(__file__).parent
given = json.loads((HERE / "project.json").read_text())

app = Celery("proj", broker=given["broker"])
app.conf.update(task_default_queue=given["queue"], broker_connection_retry_on_startup=True)
app.conf.update(given["conf"])

clients = []
for name in given["streams"]:
    client = Client(given["feed"], name=name, **{"min_reconnect_delay": 0.1, **given["options"]})
    clients.append(client)
if given["install"]:
    install(app, clients)
    install(app, clients)  # again: nothing changes


def tell():
    """Keep the counters on disk, where the test reads them."""
    target = HERE / f"stats-{os.getpid()}.json"
    while True:
        stats = clients[0].stats()
        found = {name: getattr(stats, name) for name in stats.__slots__}
        for name in ("handlers", "recent_events", "round_trips"):
            del found[name]
        found["messages_dropped"] = dict(stats.messages_dropped)
        found.update(state=clients[0].state.value, epoch=clients[0].aio._epoch)
        temporary = target.with_suffix(".new")
        temporary.write_text(json.dumps(found))
        temporary.replace(target)
        time.sleep(0.1)


for client in clients[:1]:
    @client.on_state
    def begin_telling(event, begun=[]):
        if not begun:
            begun.append(True)
            threading.Thread(target=tell, daemon=True).start()

    if given["resume"]:
        @client.on_ready
        def resume(client=client):
            last = client.last_message
            client.send({"resume": last.json()["n"] if last else 0})

if given["forward"]:
    for client in clients:
        forward(client, "proj.ingest", **given["forward_options"])


@app.task
def ingest(item):
    with open(HERE / "ingested.jsonl", "a") as file:
        file.write(json.dumps(item) + "\\n")


@app.task
def work(n):
    client = clients[0]
    with open(HERE / "worked.jsonl", "a") as file:
        file.write(json.dumps([n, os.getpid(), client.state.value]) + "\\n")
'''


# What a silent broker costs is some of these in a row: a test need not wait as long as users do.
SHORT_OF_TIME = """
from datastream_ws.celery import broker

broker.TIMEOUT = {0}
for each in (*broker.TIMEOUTS.values(), *broker.PUBLISH.values()):
    each.update(dict.fromkeys(each, {0}))
"""


@dataclass(frozen=True)
class Task:
    """A task in the queue."""

    id: str
    name: str
    argument: Any


class CeleryProject:
    """
    A project folder with a Celery app in it.

    Args:
        folder: Empty, of this project alone.
        feed: URL of the stream.
        options: Of the client.
        conf: Of the app.
        forward_options: Arguments of forward().
        resume: Whether the client asks for what it has missed, as NumberedServer wants it.
        consume: Whether the worker takes tasks from the project's own queue.
        patience: Seconds in the place of the five that each step towards the broker may take.

    """

    def __init__(
        self,
        folder: Path,
        *,
        broker: str,
        feed: str,
        options: dict[str, Any] | None = None,
        conf: dict[str, Any] | None = None,
        forward_options: dict[str, Any] | None = None,
        forward: bool = True,
        install: bool = True,
        resume: bool = False,
        consume: bool = False,
        streams: tuple[str, ...] = ("default",),
        module: str = MODULE,
        patience: float | None = None,
    ) -> None:
        if patience is not None:
            module = SHORT_OF_TIME.format(patience) + module
        self.folder = folder
        self.broker = broker
        self.queue = f"ds-test-{uuid.uuid4().hex[:12]}"
        # Its own, as the queue of its remote commands: RabbitMQ gives that to one connection.
        self.host = uuid.uuid4().hex[:12]
        self.conf = conf or {}
        self._consume = consume
        self._given = {
            "broker": broker,
            "feed": feed,
            "queue": self.queue,
            "options": options or {},
            "conf": self.conf,
            "forward_options": forward_options or {},
            "forward": forward,
            "install": install,
            "resume": resume,
            "streams": streams,
        }
        folder.mkdir(exist_ok=True)
        (folder / "proj.py").write_text(module)
        (folder / "project.json").write_text(json.dumps(self._given))

    @property
    def env(self) -> dict[str, str]:
        path = os.pathsep.join([str(ROOT), str(self.folder)])
        state = {"XDG_STATE_HOME": str(self.folder / "state")}
        return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **state}

    @contextmanager
    def worker(self, *arguments: str, node: str = "w1", **env: str) -> Iterator[Worker]:
        """Start a worker; it is killed at the end of the block if it still runs."""
        worker = self.start(*arguments, node=node, **env)
        try:
            yield worker
        finally:
            worker.kill()

    def start(self, *arguments: str, node: str = "w1", **env: str) -> Worker:
        """Start a worker."""
        queue = self.queue if self._consume else f"{self.queue}-idle"
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "proj",
            "worker",
            "-n",
            f"{node}@{self.host}",
        ]
        if not {"-c", "-P"} & set(arguments):
            arguments = ("-P", "solo", *arguments)
        command += ["-Q", queue, "-l", "INFO", "--without-gossip", "--without-mingle", *arguments]
        return Worker(command, self.folder, {**self.env, **env})

    def celery(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run another celery command."""
        return subprocess.run(
            [sys.executable, "-m", "celery", "-A", "proj", *arguments],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def published(self, broker: str | None = None) -> list[Task]:
        """Take all tasks out of the queue, in the order in which they came."""
        tasks: list[Task] = []

        def take(body: Any, message: Any) -> None:
            tasks.append(Task(message.headers["id"], message.headers["task"], body[0][0]))
            message.ack()

        options = self.conf.get("broker_transport_options", {})
        with kombu.Connection(broker or self.broker, transport_options=options) as connection:
            channel = connection.channel()
            queue = kombu.Queue(self.queue, routing_key=self.queue)(channel)
            while (message := queue.get()) is not None:
                take(message.decode(), message)
            queue.delete()
        return tasks

    def lines(self, name: str) -> list[Any]:
        """Return what the tasks have written into a file."""
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait(self, what: Callable[[], Any], timeout: float = 60.0) -> Any:
        """Wait until *what* returns something true; return it."""
        return wait_until(what, timeout)


class Worker:
    """A worker process, with a log in the project's folder."""

    def __init__(self, command: list[str], folder: Path, env: dict[str, str]) -> None:
        self._folder = folder
        self._log = folder / f"worker-{uuid.uuid4().hex[:6]}.log"
        with self._log.open("wb") as log:
            # A session of its own: what a terminal would send to the whole group is not sent here.
            self.process = subprocess.Popen(
                command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stats(self) -> dict[str, Any]:
        """Return the counters as they were a moment ago; empty: not written yet."""
        path = self._folder / f"stats-{self.pid}.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        return found

    def wait_stats(
        self, good: Callable[[dict[str, Any]], bool], timeout: float = 60.0
    ) -> dict[str, Any]:
        """Wait until the counters are as wanted; TimeoutError shows them and the log."""
        try:
            wait_until(lambda: (found := self.stats()) and good(found), timeout, self.process)
        except TimeoutError:
            raise TimeoutError(f"{self.stats()}\n{self.log[-3000:]}") from None
        return self.stats()

    def wait_log(self, text: str, timeout: float = 60.0) -> None:
        """Wait until *text* is in the log."""
        try:
            wait_until(lambda: text in self.log, timeout, self.process)
        except TimeoutError:
            raise TimeoutError(f"no {text!r} in\n{self.log[-3000:]}") from None

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, number: int = SIGTERM, timeout: float = 60.0) -> int:
        """Signal, wait for the end, return the exit code."""
        self.signal(number)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """SIGKILL, to it and its children; nothing if it has ended."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, SIGKILL)
        self.process.wait()


def wait_until(
    what: Callable[[], Any], timeout: float, process: subprocess.Popen[bytes] | None = None
) -> Any:
    """Look twenty times a second until *what* returns something true, or *process* has ended."""
    deadline = time.monotonic() + timeout
    while not (found := what()):
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > deadline:
            raise TimeoutError("the process has ended" if ended else f"not within {timeout} s")
        time.sleep(0.05)
    return found


def check_published(tasks: list[Task], count: int) -> int:
    """
    Assert that numbers 1 … *count* were published, none lost, the first of each in order, and
    doubled ones under the same id; return how many were doubled.
    """
    id_of: dict[int, str] = {}
    order: list[int] = []
    doubled = 0
    for task in tasks:
        items = task.argument if isinstance(task.argument, list) else [task.argument]
        for item in items:
            n = json.loads(item["data"])["n"]
            if n not in id_of:
                order.append(n)
                id_of[n] = task.id
            else:
                doubled += 1
                assert id_of[n] == task.id, f"{n} came again under another id"
    lost = sorted(set(range(1, count + 1)) - set(order))
    assert lost == [], f"{len(lost)} lost: {lost[:10]}"
    assert order == sorted(order), "not in order"
    return doubled


def ledger(stats: dict[str, Any]) -> str:
    """Return the book-keeping of a stream in a line; asserts that it adds up."""
    dropped = sum(stats["messages_dropped"].values())
    rest = stats["messages_waiting"] + stats["messages_failed"]
    line = (
        f"received {stats['messages_received']} = published {stats['messages_handled']} + spooled "
        f"{stats['messages_spooled']} + dropped {dropped} + waiting or failed {rest}"
    )
    parts = stats["messages_handled"] + stats["messages_spooled"] + dropped + rest
    assert stats["messages_received"] == parts, line
    return line
