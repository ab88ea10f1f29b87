"""
Celery workers with a stream, in their own processes, and the tasks in their queue.

::

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
"""A project as users write it. Each test writes its options into project.json."""

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
    install(app, clients)  # the second call has no effect


def tell():
    """Write the counters to a file, which the test reads."""
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


# With a silent broker, several of these elapse one after another. Tests use shorter ones.
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
        folder: An empty folder of this project.
        broker: The URL of the broker.
        feed: The URL of the stream.
        options: The options of the client.
        conf: The configuration of the app.
        forward_options: The arguments of ``forward()``.
        forward: Whether messages are forwarded to the task ``ingest``.
        install: Whether the clients are installed in the app.
        resume: Whether the client requests missed messages, as NumberedServer expects.
        consume: Whether the worker consumes the project's queue.
        streams: The names of the clients.
        module: The source of the project's module.
        patience: Seconds for each step towards the broker. ``None`` keeps the default of 5.

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
        # It names the queue of remote commands, which RabbitMQ reserves for one connection.
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
        """Run a worker, and kill it at the end of the block."""
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
        """Run another ``celery`` command until it exits."""
        return subprocess.run(
            [sys.executable, "-m", "celery", "-A", "proj", *arguments],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def published(self, broker: str | None = None) -> list[Task]:
        """Remove all tasks from the queue, and return them in order of arrival."""
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
        """Return the lines of JSON that the tasks have written to a file."""
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait(self, what: Callable[[], Any], timeout: float = 60.0) -> Any:
        """Wait until the result of *what* is true, and return it."""
        return wait_until(what, timeout)


class Worker:
    """A worker process, with a log in the project's folder."""

    def __init__(self, command: list[str], folder: Path, env: dict[str, str]) -> None:
        self._folder = folder
        self._log = folder / f"worker-{uuid.uuid4().hex[:6]}.log"
        with self._log.open("wb") as log:
            # In its own session, so that it gets no signals to the process group of the test.
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
        """Return the latest counters. They are empty before the worker has written any."""
        path = self._folder / f"stats-{self.pid}.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        return found

    def wait_stats(
        self, good: Callable[[dict[str, Any]], bool], timeout: float = 60.0
    ) -> dict[str, Any]:
        """Wait for counters that are *good*. TimeoutError shows the counters and the log."""
        try:
            wait_until(lambda: (found := self.stats()) and good(found), timeout, self.process)
        except TimeoutError:
            raise TimeoutError(f"{self.stats()}\n{self.log[-3000:]}") from None
        return self.stats()

    def wait_log(self, text: str, timeout: float = 60.0) -> None:
        """Wait until *text* is in the log. TimeoutError shows the log."""
        try:
            wait_until(lambda: text in self.log, timeout, self.process)
        except TimeoutError:
            raise TimeoutError(f"no {text!r} in\n{self.log[-3000:]}") from None

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, number: int = SIGTERM, timeout: float = 60.0) -> int:
        """Send a signal, and return the exit code of the process."""
        self.signal(number)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """Send SIGKILL to the process and its children. If it has ended, this has no effect."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, SIGKILL)
        self.process.wait()


def wait_until(
    what: Callable[[], Any], timeout: float, process: subprocess.Popen[bytes] | None = None
) -> Any:
    """Return the result of *what* once it is true. TimeoutError if *process* ends first."""
    deadline = time.monotonic() + timeout
    while not (found := what()):
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > deadline:
            raise TimeoutError("the process has ended" if ended else f"not within {timeout} s")
        time.sleep(0.05)
    return found


def check_published(tasks: list[Task], count: int) -> int:
    """
    Assert that the numbers 1 … *count* were published in order, and count the duplicates.

    Duplicates must have the same task id.
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
    """Return the balance of a stream's counters as a line, and assert that it adds up."""
    dropped = sum(stats["messages_dropped"].values())
    rest = stats["messages_waiting"] + stats["messages_failed"]
    line = (
        f"received {stats['messages_received']} = published {stats['messages_handled']} + spooled "
        f"{stats['messages_spooled']} + dropped {dropped} + waiting or failed {rest}"
    )
    parts = stats["messages_handled"] + stats["messages_spooled"] + dropped + rest
    assert stats["messages_received"] == parts, line
    return line
