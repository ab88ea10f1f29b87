"""The pytest plugin costs a test run nothing until its fixture is used."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import datastream_ws.testing

ROOT = Path(__file__).parents[3]
HEAVY = {"websockets", "asyncio", "datastream_ws.testing.server", "datastream_ws.testing.capture"}


def test_plugin_is_registered() -> None:
    """pytest finds the fixture by the package's entry point."""
    [entry] = entry_points(group="pytest11", name="datastream_ws")
    assert entry.value == "datastream_ws.testing.plugin"


def test_plugin_itself_imports_nothing_heavy() -> None:
    """What the core's own __init__ loads is its affair: the plugin adds next to nothing to it."""
    code = (
        "import sys, pytest, datastream_ws; before = set(sys.modules);"
        "import datastream_ws.testing.plugin; print(*set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert loaded == {"datastream_ws.testing", "datastream_ws.testing.plugin"}


def test_exports_are_sorted_and_there() -> None:
    """Every name in __all__ can be had."""
    names = datastream_ws.testing.__all__
    assert names == sorted(names)
    assert all(getattr(datastream_ws.testing, name).__name__ == name for name in names)
