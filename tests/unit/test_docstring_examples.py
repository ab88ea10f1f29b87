"""The examples in docstrings, which readers copy from the reference, are valid Python."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [
    path
    for package in ("datastream_ws", "datastream_ws_django", "datastream_ws_flask")
    for path in sorted((ROOT / package).rglob("*.py"))
]
NOT_PYTHON = {"exceptions.py": "a tree of classes", "recording.py": "lines of a file"}
WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def examples(docstring: str) -> Iterator[str]:
    """Yield each literal block, which follows ``::`` and is indented more."""
    lines = docstring.splitlines()
    for number, line in enumerate(lines):
        if line.endswith("::"):
            indent = len(line) - len(line.lstrip())
            block = []
            for each in lines[number + 1 :]:
                if each.strip() and len(each) - len(each.lstrip()) <= indent:
                    break
                block.append(each)
            yield textwrap.dedent("\n".join(block))


def found() -> Iterator[tuple[str, str]]:
    """Yield each example, and the name of its module and object."""
    for path in MODULES:
        if path.name in NOT_PYTHON:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, WITH_DOCSTRING):
                for example in examples(ast.get_docstring(node) or ""):
                    where = f"{path.relative_to(ROOT)}-{getattr(node, 'name', 'module')}"
                    yield where, example


CASES = list(found())


@pytest.mark.parametrize("example", [pytest.param(text, id=where) for where, text in CASES])
def test_an_example_is_python(example: str) -> None:
    compile(example, "docstring", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_every_package_has_examples() -> None:
    """The search finds them."""
    packages = {where.partition("/")[0] for where, _ in CASES}
    assert packages == {"datastream_ws", "datastream_ws_django", "datastream_ws_flask"}
