"""The pages hold: whoever follows one to the letter, from an empty folder, sees what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.blockchecks import CHECKS
from kit.pages import Block, pages, steps
from kit.reader import NOT_RUN, Reader, has_own_test, lines_of

BLOCKS = [each for page in pages() for each in steps(page) if isinstance(each, Block)]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", sorted({b.page for b in BLOCKS if not has_own_test(b.page)}))
def test_page(page: str, tmp_path: Path) -> None:
    with Reader(page, tmp_path) as reader:
        reader.follow()


def test_code_is_read_without_scrolling() -> None:
    """A page shows so many columns of code in a window of 1280 pixels."""
    most = 91
    lines = [(each.page, line) for each in BLOCKS for line in each.text.splitlines()]
    assert [(page, line) for page, line in lines if len(line) > most] == []


def test_what_is_not_run_is_in_the_pages() -> None:
    """The list of excuses has no entry that excuses nothing."""
    lines = [line for each in BLOCKS if each.language == "sh" for line in lines_of(each.text)]
    used = {line.split()[0] for line in lines if line.strip()}
    assert set(NOT_RUN) - used == set()


def test_every_kind_of_block_is_used() -> None:
    used = {each.language for each in BLOCKS} | {"service"}
    assert set(CHECKS) - used == set()
