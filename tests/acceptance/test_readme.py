"""The README holds: its examples run, its commands, files and options exist."""

from __future__ import annotations

import ast
import dataclasses
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from datastream_ws import ClientOptions
from datastream_ws.testing import StreamServer
from datastream_ws.testing.connection import StreamConnection

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
URL = re.compile(r'"(?:wss|https)://[^"]+"')

# What the examples wait for.
MESSAGES = [
    {"type": "flag_update", "key": "feature1", "value": True},
    {"entity_type": "rulesengine.Flags", "message_type": "full", "data": [{"key": "feature1"}]},
    {"type": "goodbye"},
]


def feed(connection: StreamConnection, data: str | bytes = b"") -> None:
    for message in MESSAGES:
        connection.send(message)


def environment() -> dict[str, str]:
    """Return ours, with this checkout on the path and without what steers the outer pytest."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return inherited | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.getenv("PYTHONPATH", "")])}


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(number: int, tmp_path: Path) -> None:
    file = tmp_path / "test_example.py"
    code = EXAMPLES[number]
    # One that sends is answered, so that it has got that far when it is told to end.
    speaks = "client.send(" in code or "client.start_entity(" in code
    server = StreamServer(on_message=feed) if speaks else StreamServer(on_connect=feed)
    with server:
        file.write_text(URL.sub(f'"{server.url}"', code), encoding="utf-8")
        run = run_tests if "def test_" in code else run_program
        run(file)


def run_tests(file: Path) -> None:
    installed = importlib.metadata.entry_points(group="pytest11", name="datastream_ws")
    plugin = [] if installed else ["-p", "datastream_ws.testing.plugin"]
    command = [sys.executable, "-m", "pytest", "-q", *plugin, str(file)]
    done = subprocess.run(
        command, cwd=file.parent, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d passed", done.stdout)


def run_program(file: Path) -> None:
    """Run an example until it has printed something, and is told to end if it does not itself."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-u", str(file)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        if ".run()" in file.read_text(encoding="utf-8") and first:
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert first


def test_every_section_with_code_has_an_example() -> None:
    assert len(EXAMPLES) >= 4


def test_first_example_is_short() -> None:
    assert len(EXAMPLES[0].splitlines()) <= 15


def test_named_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"^    make ([a-z]+)", TEXT, re.MULTILINE))
    named |= set(re.findall(r"`make ([a-z]+)", TEXT))
    assert named >= {"demo", "test"}
    assert named <= targets


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert [link for link in links if not (ROOT / link).exists()] == []


def option_rows() -> list[tuple[str, str]]:
    """Return (name, default as written) of every option in the table."""
    rows: list[tuple[str, str]] = []
    for names, defaults in re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", TEXT, re.MULTILINE):
        found = re.findall(r"`(\w+)`", names)
        written = defaults.split(", ") if len(found) > 1 else [defaults]
        rows += zip(found, written, strict=True)
    return rows


def test_options_exist_with_the_defaults_written() -> None:
    fields = {each.name: each for each in dataclasses.fields(ClientOptions)}
    rows = option_rows()
    assert len(rows) > 30
    assert [name for name, _ in rows if name not in fields] == []
    options = ClientOptions("wss://api.example.com/stream")
    for name, written in rows:
        if literal := re.fullmatch(r"`(.+)`", written):
            actual = getattr(options, name)
            if name == "codec":  # the name has become the codec
                continue
            assert actual == ast.literal_eval(literal[1]), name
