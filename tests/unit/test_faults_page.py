"""docs/fault-tests.md says what the marks on the tests say."""

from __future__ import annotations

from kit.faultbook import BREAKS, FAULTS, NOT_APPLICABLE, SECTIONS
from kit.faultpage import PAGE, marks, page


def test_page_is_what_the_marks_say() -> None:
    """When this fails: python -m tests.kit.faultpage."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_marked_id_is_known() -> None:
    """A slip of the pen in a mark would show a fault that nobody has."""
    assert sorted(set(marks()) - set(FAULTS)) == []


def test_every_fault_has_its_place() -> None:
    """Each id is in one section and has a name."""
    placed = [each for ids in SECTIONS.values() for each in ids]
    assert placed == list(FAULTS)


def test_what_does_not_apply_is_not_shown() -> None:
    """A fault is shown by a test or excused, not both; a break belongs to one that is shown."""
    assert sorted(set(marks()) & set(NOT_APPLICABLE)) == []
    assert sorted(set(BREAKS) - set(marks())) == []
