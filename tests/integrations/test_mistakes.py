"""What users typically do wrong, each as a program of theirs: the text names it, and the cure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from datastream_ws.testing import StreamServer

PLAIN = """
import sys
from datastream_ws import AsyncClient, Client, Fleet
client = Client(sys.argv[1], max_reconnect_attempts=1)
"""
LOGGED = "import logging; logging.basicConfig(level=logging.INFO)\n" + PLAIN
NOBODY = "ws://127.0.0.1:1/"
FILES = {
    "settings.py": f"""
SECRET_KEY = "for tests only"
USE_TZ = True
INSTALLED_APPS = ["datastream_ws_django", "shop"]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}}}
DATASTREAMS = {{"prices": {{"URL": "{NOBODY}", "MAX_RECONNECT_ATTEMPTS": 1}}}}
""",
    "shop/__init__.py": "",
    "shop/datastreams.py": """
from django.dispatch import receiver
from datastream_ws_django.signals import message_received

@receiver(message_received)
def tick(ws, message): ...
""",
    "app.py": f"""
from flask import Flask
from datastream_ws_flask import DataStream
app = Flask(__name__)
app.config["DATASTREAM_URL"] = "{NOBODY}"
datastream = DataStream(app)
""",
    "proj.py": f"""
from celery import Celery
from datastream_ws import Client
from datastream_ws.celery import forward, install
app = Celery("proj", broker="memory://")
client = Client("{NOBODY}")

@app.task
def ingest(ws, message): ...

forward(client, ingest)
install(app, client)
""",
}


class Mistake(NamedTuple):
    """A program, and what it says once."""

    what: str
    program: str
    says: str


MISTAKES = [
    Mistake(
        "a handler of websocket-client",
        "@client.on_message\ndef tick(ws, message): ...",
        "on_message: tick(ws, message) is called with one argument, the message. "
        "Define tick(message). The client is not passed: use the variable that holds it.",
    ),
    Mistake(
        "a coroutine handler of websocket-client",
        "@client.on_message('flag')\nasync def tick(ws, message): ...",
        "on_message: tick(ws, message) is called with one argument, the message. ",
    ),
    Mistake(
        "on_open of websocket-client",
        "@client.on_ready\ndef hello(ws): ...",
        "on_ready: hello(ws) is called with no arguments. Define hello(). "
        "The client is not passed: use the variable that holds it.",
    ),
    Mistake(
        "on_close of websocket-client",
        "@client.on_disconnect\ndef bye(ws, code, reason): ...",
        "on_disconnect: bye(ws, code, reason) is called with one argument, the event. "
        "Define bye(event).",
    ),
    Mistake(
        "on_error of websocket-client",
        "@client.on_error\nasync def failed(ws, error): ...",
        "on_error: failed(ws, error) is called with one argument, the error. Define failed(error).",
    ),
    Mistake(
        "a handler of batches that takes nothing",
        "@client.on_batch\ndef store(): ...",
        "on_batch: store() is called with one argument, the messages. Define store(messages).",
    ),
    Mistake(
        "a method in a class's body",
        "class Prices:\n    @client.on_message\n    def tick(self, message): ...",
        "Register a method through its object, in __init__ for example.",
    ),
    Mistake(
        "a subclass whose method has a decorator's name",
        "class Prices(Client):\n    def on_message(self, message): ...",
        "Prices.on_message would never be called, because it replaces the decorator on_message.",
    ),
    Mistake(
        "a condition that takes nothing",
        "@client.on_message(when=lambda: True)\ndef tick(message): ...",
        "on_message(when=…): <lambda>() is called with one argument, the message.",
    ),
    Mistake(
        "a handler as an option",
        "Client('ws://x', on_message=print)",
        "on_message: is not an option (given: builtin_function_or_method). "
        "Did you mean '@client.on_message'?",
    ),
    Mistake(
        "an option that there is not",
        "Client('ws://x', reconnect_delay=1)",
        "reconnect_delay: is not an option (given: int). Did you mean 'min_reconnect_delay'?",
    ),
    Mistake(
        "a URL of HTTP",
        "Client('https://api.example.com')",
        "url: must start with ws:// or wss://",
    ),
    Mistake(
        "sending before the start",
        "client.send({'type': 'hello'})",
        "NotConnectedError: stream default is idle in this process. Call start() first",
    ),
    Mistake(
        "async with a Client",
        "import asyncio\nasync def main():\n    async with client: ...\nasyncio.run(main())",
        "TypeError: use `async with AsyncClient(…)` in a coroutine, or `with Client(…)`",
    ),
    Mistake(
        "with an AsyncClient",
        "with AsyncClient('ws://x'): ...",
        "TypeError: use `async with AsyncClient(…)` in a coroutine, or `with Client(…)`",
    ),
    Mistake(
        "waiting on the loop's thread",
        """
@client.on_ready
async def hello():
    client.request({"type": "hello"}, lambda message: True)
client.run()
""",
        "stream default: gave up: request() would block the event loop. In a coroutine handler, "
        "use await client.aio.request(...)",
    ),
    Mistake(
        "no handler",
        "import time\nwith client:\n    client.wait_ready(10)\n    time.sleep(2)",
        "stream default: no handler is registered for its messages, so they are only counted. "
        "Register one with @client.on_message",
    ),
    Mistake(
        "a coroutine handler that blocks",
        """
import time
@client.on_ready
async def hello():
    time.sleep(1.5)
client.on_message(print)
with client:
    client.wait_ready(10)
""",
        "stream default: __main__.hello has blocked the event loop for ",
    ),
    Mistake(
        "a source of a fleet that takes an argument",
        "def accounts(fleet): ...\nFleet(accounts)",
        "source: accounts(fleet) is called with no arguments. Define accounts().",
    ),
    Mistake(
        "on_entity without its parentheses",
        "from datastream_ws import schematic\n"
        "api = schematic.Client('key')\n@api.on_entity\ndef flags(response): ...",
        "ConfigurationError: on_entity: requires an entity type, such as "
        "@client.on_entity(EntityType.FLAGS)",
    ),
    Mistake(
        "a handler of entities with two parameters",
        "from datastream_ws import schematic\n"
        "api = schematic.Client('key')\n@api.on_entity()\ndef flags(ws, response): ...",
        "on_entity: flags(ws, response) is called with one argument, the response. ",
    ),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.what)
def test_a_program_is_told_its_mistake(mistake: Mistake, folder: Path) -> None:
    with StreamServer() as server:
        said = run(folder, ["-c", LOGGED + mistake.program, server.url])
    assert said.count(mistake.says) == 1, said


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (NOBODY, "connection refused by 127.0.0.1:1"),
        ("ws://[::1]:1/", "connection refused by [::1]:1"),
        ("ws://no-such-host.invalid/", "the host name cannot be resolved: "),
    ],
)
def test_a_server_that_is_not_there_is_told_in_words(url: str, words: str, folder: Path) -> None:
    said = run(folder, ["-c", LOGGED + "client.on_message(print); client.run()", url])
    assert f"stream default: gave up after 1 failed attempt; last error: {words}" in said
    assert "Errno" not in said
    assert said.count("connecting to") == 1
    assert len(said.splitlines()) < 30


def test_connecting_is_logged_once_per_attempt(folder: Path) -> None:
    program = LOGGED.replace("=1)", "=3, min_reconnect_delay=0.01, max_reconnect_delay=0.02)")
    said = run(folder, ["-c", program + "client.on_message(print); client.run()", NOBODY])
    assert said.count("connecting") == 3
    assert "gave up after 3 failed attempts" in said


@pytest.mark.parametrize(
    "command",
    ["run_datastream", "datastream_status", "datastream_control pause", "datastream_retry_failed"],
)
def test_every_command_of_django_refuses_an_unknown_alias_alike(command: str, folder: Path) -> None:
    (folder / "shop" / "datastreams.py").write_text("")
    said = run(folder, ["-m", "django", *command.split(), "price"])
    says = "DATASTREAMS has no stream 'price'. Add it, or use one of these: 'prices'"
    assert said == f"CommandError: {says}\n"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            ["django", "check"],
            "message_received: tick(ws, message) is called with keyword arguments "
            "(sender, stream, message). Define tick(sender, stream, message, **kwargs).",
        ),
        (
            ["celery", "-A", "proj", "worker", "-P", "solo", "--datastream"],
            "forward(proj.ingest): ingest(ws, message) is called with one argument, the message. "
            "Define ingest(message).",
        ),
        (
            ["flask", "--app", "app", "datastream", "run", "price"],
            "app 'app' has no stream 'price', only default. Create it with "
            "DataStream(name='price')",
        ),
        (
            ["flask", "--app", "app", "datastream", "status", "price"],
            "app 'app' has no stream 'price', only default. Create it with "
            "DataStream(name='price')",
        ),
    ],
)
def test_a_framework_s_command_tells_the_mistake(
    command: list[str], says: str, folder: Path
) -> None:
    assert says in run(folder, ["-m", *command])


def test_a_receiver_of_flasks_signals_is_refused_where_it_is_connected(folder: Path) -> None:
    with (folder / "app.py").open("a") as file:
        file.write(
            "from datastream_ws_flask.signals import stream_disconnected\n"
            "@stream_disconnected.connect\ndef bye(ws, code, reason): ...\n"
        )
    said = run(folder, ["-m", "flask", "--app", "app", "datastream", "run"])
    assert (
        "stream_disconnected: bye(ws, code, reason) is called with one argument, the app, "
        "and keyword arguments (stream, event). Define bye(app, stream, event, **kwargs)."
    ) in said


def run(folder: Path, command: list[str]) -> str:
    """Return all that a program of the user's prints."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "settings", "XDG_STATE_HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.stdout
