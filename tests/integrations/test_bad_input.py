"""What the commands of the frameworks say of bad input: one line with what to do, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SECRET = "hunter2"
NOBODY = "redis://127.0.0.1:1/0"

FILES = {
    "app.py": """
import os
from flask import Flask
from datastream_ws_flask import DataStream
app = Flask(__name__)
app.config.update(eval(os.environ["CONFIG"]))
datastream = DataStream(app)
""",
    "settings.py": """
import os
SECRET_KEY = "for tests only"
USE_TZ = True
INSTALLED_APPS = ["datastream_ws_django"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DATASTREAMS = {"default": eval(os.environ["CONFIG"])}
""",
    "proj.py": """
import os
from celery import Celery
from datastream_ws import Client
from datastream_ws.celery import install
app = Celery("proj", broker="memory://")
given = eval(os.environ["CONFIG"])
app.conf.datastream = given.pop("conf", {})
install(app, Client(**{"url": "ws://127.0.0.1:1/"} | given))
""",
}
FLASK = ["flask", "--app", "app", "datastream"]
DJANGO = ["django"]
CELERY = ["celery", "-A", "proj", "worker", "-P", "solo", "--datastream"]
URL = {"DATASTREAM_URL": "ws://127.0.0.1:1/"}
GIVES_UP = {"MAX_RECONNECT_ATTEMPTS": 1, "OPEN_TIMEOUT": 5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "config", "code", "says"),
    [
        ([*FLASK, "run", "--nope"], URL, 2, "No such option '--nope'"),
        (
            [*FLASK, "run"],
            {"DATASTREAM_URL": f"https://x/?token={SECRET}"},
            1,
            "app.config['DATASTREAM_URL']: must start with ws:// or wss://",
        ),
        (
            [*FLASK, "run"],
            URL | {f"DATASTREAM_{name}": value for name, value in GIVES_UP.items()},
            3,
            "gave up after 1 failed attempt; last error: connection refused by 127.0.0.1:1",
        ),
        ([*FLASK, "status", "--health-file", "app.py"], URL, 1, "app.py is not a health file"),
        ([*DJANGO, "run_datastream", "--nope"], {"URL": "ws://x"}, 2, "arguments: --nope"),
        (
            [*DJANGO, "run_datastream"],
            {"URL": f"https://x/?token={SECRET}"},
            1,
            "DATASTREAMS['default']: URL: must start with ws:// or wss://",
        ),
        (
            [*DJANGO, "run_datastream"],
            {"URL": "ws://127.0.0.1:1/", "LEASE": "database"},
            1,
            "Run `manage.py migrate`, or use --no-lease",
        ),
        (
            [*DJANGO, "run_datastream"],
            {"URL": "ws://127.0.0.1:1/", "LEASE": "databse"},
            1,
            "DATASTREAMS['default']: LEASE: must be \"database\", a redis:// URL",
        ),
        (
            [*DJANGO, "run_datastream", "--health-file", "no/such/folder"],
            {"URL": "ws://127.0.0.1:1/"},
            1,
            "the health file no/such/folder cannot be written: No such file or directory",
        ),
        (
            [*FLASK, "run", "--health-file", "no/such/folder"],
            URL,
            1,
            "the health file no/such/folder cannot be written: No such file or directory",
        ),
        (
            [*FLASK, "run"],
            URL | {f"DATASTREAM_{name}": value for name, value in GIVES_UP.items()},
            3,
            "stream default: gave up after 1 failed attempt; last error: connection refused by 127",
        ),
        (
            [*DJANGO, "datastream_retry_failed", "--since", "yesterday"],
            {"URL": "ws://x"},
            2,
            "--since: must be a date or a time, such as 2026-07-31",
        ),
        (
            [*DJANGO, "datastream_status"],
            {"URL": "ws://x"},
            1,
            "Run `manage.py migrate` if the table is missing.",
        ),
        ([*CELERY, "--datastrem"], {}, 2, "No such option '--datastrem'"),
        (
            [*CELERY, "--datastream-streams", "nosuch"],
            {},
            1,
            "Error: --datastream-streams: unknown stream 'nosuch'. Use one of: default",
        ),
        (CELERY, {"conf": {"on_fata": "log"}}, 1, "unknown key 'on_fata'. Did you mean on_fatal?"),
        (CELERY, {"lease": "zookeeper://x"}, 1, "proj.py, line 9: lease: must be a redis:// URL"),
        (
            CELERY,
            {"url": f"https://x/?token={SECRET}"},
            1,
            "Error: proj.py, line 9: url: must start with ws:// or wss://",
        ),
    ],
)
def test_one_line_that_says_what_to_do(
    folder: Path, command: list[str], config: dict[str, object], code: int, says: str
) -> None:
    exit_code, said = run(folder, command, config)
    assert exit_code == code, said
    assert [line for line in said.splitlines() if says in line] != [], said
    assert "Traceback" not in said
    assert SECRET not in said


WRONG: dict[str, dict[str, object]] = {
    "flask": {"DATASTREAM_URL": "https://x"},
    "django": {"URL": "https://x"},
    "celery": {"conf": {"on_fata": "log"}},
}


@pytest.mark.parametrize(
    "command",
    [
        [*FLASK, "run", "-v"],
        [*FLASK, "status", "-v"],
        [*DJANGO, "run_datastream", "--traceback"],
        [*CELERY, "-l", "DEBUG"],
    ],
)
def test_the_traceback_is_there_for_whoever_asks(folder: Path, command: list[str]) -> None:
    exit_code, said = run(folder, command, WRONG[command[0]])
    assert exit_code == 1
    assert "Traceback (most recent call last)" in said


def run(folder: Path, command: list[str], config: dict[str, object]) -> tuple[int, str]:
    """Return the exit code and all that was printed."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=os.environ
        | {"CONFIG": repr(config), "XDG_STATE_HOME": str(folder)}
        | {"DJANGO_SETTINGS_MODULE": "settings"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_lease_s_store_that_is_away_is_said_once(folder: Path) -> None:
    config = URL | {"DATASTREAM_LEASE": NOBODY}
    command = [sys.executable, "-m", *FLASK, "run"]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"CONFIG": repr(config)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
        finally:
            process.terminate()
        _, rest = process.communicate(timeout=60)
    assert line.startswith("stream default: lease: Redis is unavailable (connecting to ")
    assert "lease" not in rest


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("datastream_ws.celery", "celery", "celery"),
        ("datastream_ws.opentelemetry", "opentelemetry-api", "opentelemetry"),
        ("datastream_ws.prometheus", "prometheus_client", "prometheus"),
        ("datastream_ws_django", "django", "django"),
        ("datastream_ws_flask", "flask", "flask"),
    ],
)
def test_a_missing_extra_is_named(module: str, package: str, extra: str) -> None:
    code = f"import sys; sys.modules[{package.removesuffix('-api')!r}] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    says = f"ImportError: {package} is not installed. Run: pip install 'datastream-ws[{extra}]'"
    assert done.stderr.splitlines()[-1] == says
