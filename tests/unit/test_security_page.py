"""docs/security.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "security.md"
NAMED = sorted(set(re.findall(r"`([a-z_/]+\.py)::(test_\w+)`", PAGE.read_text(encoding="utf-8"))))


def test_page_names_tests() -> None:
    """The pattern finds what is on the page."""
    assert len(NAMED) > 30


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_named_test_exists(path: str, name: str) -> None:
    """A claim whose test was renamed or removed is no longer shown."""
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    assert name in {getattr(node, "name", None) for node in ast.walk(tree)}
