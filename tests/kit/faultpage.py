"""
Write docs/fault-tests.md from the marks on the tests: ``python -m tests.kit.faultpage``.

It reads the marks from the source without importing the tests, so it also finds those whose
requirements are not installed. The rows of ``kit/scenarios.py`` name their faults.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from .faultbook import BREAKS, FAULTS, NOT_APPLICABLE, SECTIONS
from .scenarios import SCENARIOS

__all__ = ["PAGE", "marks", "page"]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "fault-tests.md"

HEAD = """\
# Tests of failures

This page is for contributors. It names the tests of each failure. To update it from the marks on
the tests, run `python -m tests.kit.faultpage`. A test fails if the page is out of date.

The list has {all} failures: {shown} with a test, {open} without one, and {not_applicable} that is
not applicable. For {breaks} failures, the table at the end names a small change of the code that
makes the test fail.

A `scenario` is a row of `tests/kit/scenarios.py`. `test_scenarios.py` in `acceptance` and
`integrations` runs each row with the core, `manage.py run_datastream`, `flask datastream run` and a
Celery worker.
"""


def marks() -> dict[str, list[str]]:
    """Return the scenarios and tests of each fault, as ``file::function``."""
    found: dict[str, list[str]] = {}
    for scenario in SCENARIOS.values():
        for fault in scenario.faults:
            found.setdefault(fault, []).append(f"scenario {scenario.name}")
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name, function in _tests(tree.body):
            place = f"{path.relative_to(ROOT).as_posix()}::{name}"
            for fault in _ids(function):
                found.setdefault(fault, []).append(place)
    return found


def _tests(
    body: list[ast.stmt], prefix: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _tests(node.body, f"{node.name}::")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node


def _ids(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Return the arguments of each ``pytest.mark.fault(…)`` in the decorators."""
    return [
        str(ast.literal_eval(argument))
        for decorator in function.decorator_list
        for node in ast.walk(decorator)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault"
        for argument in node.args
    ]


def page() -> str:
    """Return the text of the page."""
    shown = marks()
    left = [each for each in FAULTS if each not in shown and each not in NOT_APPLICABLE]
    facts = {
        "shown": sum(each in FAULTS for each in shown),
        "all": len(FAULTS),
        "not_applicable": len(NOT_APPLICABLE),
        "open": len(left),
        "breaks": len(BREAKS),
    }
    parts = [HEAD.format(**facts)]
    parts += [_section(title, ids, shown) for title, ids in SECTIONS.items()]
    parts.append(_table("Not applicable", ("Id", "Failure", "Reason"), NOT_APPLICABLE))
    parts.append(_list("Without a test", left))
    parts.append(_table("Breaks", ("Id", "Failure", "Change that its test notices"), BREAKS))
    return "\n".join(part for part in parts if part)


def _section(title: str, ids: list[str], shown: dict[str, list[str]]) -> str:
    rows = [
        f"| {each} | {FAULTS[each]} | {_tests_cell(shown[each])} |" for each in ids if each in shown
    ]
    return _lines(title, ("Id", "Failure", "Tests"), rows)


def _tests_cell(places: list[str]) -> str:
    return "<br>".join(f"`{place.removeprefix('tests/')}`" for place in dict.fromkeys(places))


def _table(title: str, head: tuple[str, ...], rows: dict[str, str]) -> str:
    ordered = [each for each in FAULTS if each in rows]
    return _lines(title, head, [f"| {each} | {FAULTS[each]} | {rows[each]} |" for each in ordered])


def _lines(title: str, head: tuple[str, ...], rows: list[str]) -> str:
    if not rows:
        return ""
    top = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([f"## {title}", "", *top, *rows, ""])


def _list(title: str, ids: list[str]) -> str:
    if not ids:
        return ""
    return "\n".join([f"## {title}", "", *[f"- {each}: {FAULTS[each]}" for each in ids], ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} written")
