"""docs/security.md: each claim has a row of tests, and they exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "security.md"
TEXT = PAGE.read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([a-z_/]+\.py)::(test_\w+)`", TEXT)))


def test_page_names_tests() -> None:
    """The pattern finds what is on the page."""
    assert len(NAMED) > 30


def test_each_claim_has_tests_or_is_said_to_have_none() -> None:
    claims = re.findall(r"^- \*\*([A-Z]\d+)\.\*\* ", TEXT, re.MULTILINE)
    rows = re.findall(r"^\| ([A-Z]\d+(?:, [A-Z]\d+)*) \| .*[`.]", TEXT, re.MULTILINE)
    tested = [claim for row in rows for claim in row.split(", ")]
    [untested] = re.findall(r"have no test: (.+)\.", TEXT)
    assert sorted(tested + re.findall(r"[A-Z]\d+", untested)) == sorted(claims)
    assert len(set(claims)) == len(claims) > 60


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_named_test_exists(path: str, name: str) -> None:
    """A claim whose test was renamed or removed is no longer shown."""
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    assert name in {getattr(node, "name", None) for node in ast.walk(tree)}
