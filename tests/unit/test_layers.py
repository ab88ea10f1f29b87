"""Who may import whom: the drawing of the architecture page, held against the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

# A row imports only from rows above it (a comma at its end: it goes on). Within a row, names with
# commas between them may import each other, names with bars between them may not. A module that is
# missing here has no place yet: settle it in the architecture, then draw it.
DRAWING = """
    version, exceptions, redaction, events
    messages, codecs, log_fields
    handlers, option_checks, options, stats, handling, process
    spool | connection | lease | health
    lifecycle
    async_client
    client
    runner | metrics
    schematic, celery, cli, testing, prometheus, opentelemetry,
    datastream_ws_django, datastream_ws_flask
"""
LINES = DRAWING.strip().replace(" ", "").replace(",\n", ",").split("\n")
ROWS = [line.replace("|", ",").split(",") for line in LINES]
APART = {unit for line in LINES if "|" in line for unit in line.split("|")}
LAYER = {unit: number for number, row in enumerate(ROWS) for unit in row}

PURE = {*ROWS[0], *ROWS[1]}
IO_AND_CLOCK = {"asyncio", "concurrent", "selectors", "socket", "threading", "time", "websockets"}
LEAVES = set(ROWS[-1])
ADAPTERS = {"datastream_ws_django", "datastream_ws_flask"}
FRAMEWORKS = {"django", "flask", "celery", "redis"}
EXTRAS = {
    *FRAMEWORKS, "blinker", "kombu", "orjson", "msgspec",
    "rich", "prometheus_client", "opentelemetry",
}  # fmt: skip


class Import(NamedTuple):
    """An import of the dotted *name* in the part of the project that the drawing calls *unit*."""

    where: str
    unit: str
    name: str
    typing_only: bool  # under `if TYPE_CHECKING`: for annotations

    def __str__(self) -> str:
        return f"{self.where}: {self.name}"

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]

    @property
    def target(self) -> str | None:
        """What the drawing calls the owner of *name*; "datastream_ws": the face; None: not ours."""
        if self.top in ADAPTERS:
            return self.top
        if self.top != "datastream_ws":
            return None
        unit = f"{self.name}.".split(".")[1]
        return unit if unit in LAYER else "datastream_ws"


def modules() -> Iterator[tuple[Path, str]]:
    """Yield every source file and its unit, but for the core's face, which shows everything."""
    for path in sorted(ROOT.glob("datastream_ws*/**/*.py")):
        package, unit = path.relative_to(ROOT).parts[:2]
        if package in ADAPTERS:
            yield path, package
        elif unit != "__init__.py":
            yield path, unit.removesuffix(".py")


def imports() -> Iterator[Import]:
    for path, unit in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for_typing = {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
            for statement in node.body
            for inner in ast.walk(statement)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                for name in imported_names(node, path):
                    yield Import(where, unit, name, node in for_typing)


def imported_names(node: ast.Import | ast.ImportFrom, path: Path) -> list[str]:
    """Return absolute dotted names: `from ..a import b` in a/c/d.py is ["a.b"]."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
    source = [*package, *filter(None, [node.module])]
    return [".".join([*source, alias.name]) for alias in node.names]


def points_up(found: Import) -> bool:
    """Say whether the drawing allows this import, seen as an arrow between two units."""
    own, other = found.unit, found.target
    if other is None or other == own:
        return True
    if other == "datastream_ws":  # it imports the whole core, so only leaves stand beside it
        return own in LEAVES
    if LAYER[own] == LAYER[other]:
        return own not in APART and {own, other} != ADAPTERS
    return LAYER[own] > LAYER[other]


def test_every_module_is_drawn() -> None:
    undrawn = [path for path, unit in modules() if unit not in LAYER]
    assert [str(path.relative_to(ROOT)) for path in undrawn] == []


def test_imports_point_up_the_drawing() -> None:
    drawn = (found for found in imports() if found.unit in LAYER and not found.typing_only)
    assert [str(found) for found in drawn if not points_up(found)] == []


def test_pure_modules_know_no_io_and_no_clock() -> None:
    pure = (found for found in imports() if found.unit in PURE)
    assert [str(found) for found in pure if found.top in IO_AND_CLOCK] == []


def test_engines_alone_know_the_websocket_library() -> None:
    outside = (found for found in imports() if found.unit != "connection")
    known = [found for found in outside if found.top == "websockets"]
    assert [str(found) for found in known if not serves_the_test_server(found)] == []


def serves_the_test_server(found: Import) -> bool:
    """`StreamServer` stands on the server of websockets, and on no client."""
    parts = found.name.split(".")
    return found.unit == "testing" and parts[0] == "websockets" and "client" not in parts


def test_leaves_and_adapters_use_public_names() -> None:
    foreign = (found for found in imports() if found.target not in {None, found.unit})
    assert [str(found) for found in foreign if found.unit in LEAVES and is_private(found)] == []


def is_private(found: Import) -> bool:
    return any(part.startswith("_") and not part.endswith("__") for part in found.name.split("."))


def test_core_names_no_framework() -> None:
    core = (found for found in imports() if found.unit not in LEAVES | {"lease"})
    assert [str(found) for found in core if found.top in FRAMEWORKS] == []


def test_importing_the_core_loads_no_framework() -> None:
    loaded = python("import sys, datastream_ws; print(*sys.modules)").split()
    assert FRAMEWORKS.intersection(loaded) == set()


def test_core_imports_without_any_extra() -> None:
    hidden = f"import sys; sys.modules.update(dict.fromkeys({sorted(EXTRAS)}))"
    assert python(f"{hidden}; import datastream_ws; print('imported')") == "imported"


def python(code: str) -> str:
    """Run *code* in a fresh interpreter that finds the checkout, and return what it printed."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
