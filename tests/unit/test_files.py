"""Every module of the rooms has its file of tests, and every such file its module."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WITHOUT = {"connection": {"engine"}}  # protocols only; websockets_engine is what keeps them
# What no single module answers for.
ACROSS = {
    "lifecycle": {"death", "old_faults", "orders", "scenes", "storm"},
    "connection": {"fuzz_answers", "fuzz_frames", "pongs"},
    "handling": {"inbox_bytes"},
}


def names(folder: str, prefix: str = "") -> set[str]:
    found = {path.stem.removeprefix(prefix) for path in (ROOT / folder).glob(f"{prefix}*.py")}
    return found - {"__init__"}


@pytest.mark.parametrize("room", ["lifecycle", "connection", "handling", "process"])
def test_modules_and_their_tests(room: str) -> None:
    modules = names(f"datastream_ws/{room}") - WITHOUT.get(room, set())
    tests = names(f"tests/unit/{room}", "test_") - ACROSS.get(room, set())
    assert tests == modules
