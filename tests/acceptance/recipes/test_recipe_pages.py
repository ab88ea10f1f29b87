"""Every recipe is short, is run by a test of its own, and can be found from the index."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.pages import ROOT
from kit.recipes import MOST_LINES, code_of

FOLDER = ROOT / "docs" / "recipes"
INDEX = (FOLDER / "index.md").read_text(encoding="utf-8")
PAGES = sorted(page for page in FOLDER.glob("*.md") if page.name != "index.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_recipe(page: Path) -> None:
    name = page.stem.replace("-", "_")
    test = ROOT / "tests" / "acceptance" / "recipes" / f"test_{name}.py"
    text = test.read_text(encoding="utf-8")
    assert f'Recipe("{page.stem}"' in text or f'"{page.name}"' in text, "not run by the test"
    assert "\nThis recipe is tested with " in page.read_text(encoding="utf-8"), "with which server?"
    lines = [line for line in code_of(page).text.split("\n") if line.strip()]
    assert len(lines) <= MOST_LINES
    assert f"({page.name})" in INDEX, "not in the table"
    assert f"\n{page.stem}\n" in INDEX, "not in the toctree"
