"""Who may import whom: the drawing of the architecture page, held against the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

# A row imports only from rows above it (a comma at its end: it goes on); what is imported for
# annotations alone counts, too. Within a row, names with commas between them may import each other,
# names with bars between them may not. A module that is missing here has no place yet: settle it in
# the architecture, then draw it.
DRAWING = """
    version, exceptions, base_errors, protocols, redaction, events, messages, codecs, stats, forks
    options, option_types, option_checks, handlers, routing, log_fields
    connection | handling | lease | process
    spool
    lifecycle
    async_client | health
    client
    runner | fleet | status_table
    embedding
    metrics
    schematic | celery | cli | testing | prometheus | opentelemetry |
    datastream_ws_django | datastream_ws_flask
"""
LINES = DRAWING.strip().replace(" ", "").replace(",\n", ",").replace("|\n", "|").split("\n")
ROWS = [line.replace("|", ",").split(",") for line in LINES]
APART = {unit for line in LINES if "|" in line for unit in line.split("|")}
LAYER = {unit: number for number, row in enumerate(ROWS) for unit in row}

# What leaves and adapters import of the project: the face, the seam, and what stands on the seam.
OPEN = {"datastream_ws", "embedding", "runner", "metrics"}
# A leaf that needs another: it is one of its users.
USERS = {
    ("cli", "testing"),  # `replay` is a server
    ("celery", "datastream_ws_django"),
    ("celery", "datastream_ws_flask"),
    ("datastream_ws_flask", "datastream_ws_django"),  # rows, where an app shares its database
}

PURE = {*ROWS[0], "log_fields"}
IO_AND_CLOCK = {"asyncio", "concurrent", "selectors", "socket", "threading", "time", "websockets"}
LEAVES = set(ROWS[-1])
ON_THE_SEAM = LEAVES | set(ROWS[-2])
# Attributes of other people's objects, private by their names and public by their documentation
# (of a namedtuple, Django's models, os), or without another way (argparse, proxies of Celery's and
# Flask's).
NOT_OURS = {"_replace", "_meta", "_exit", "_get_current_object", "_option_string_actions"}
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
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                for name in imported_names(node, path):
                    yield Import(where, unit, name)


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
    if other is None or other == own or (own, other) in USERS:
        return True
    if own in LEAVES:
        return other in OPEN
    if other == "datastream_ws":  # it imports the whole core, so only leaves stand beside it
        return own in ROWS[-2]
    if LAYER[own] == LAYER[other]:
        return own not in APART
    return LAYER[own] > LAYER[other]


def circles() -> list[set[str]]:
    """Return the sets of modules that import each other, imports for annotations included."""
    graph: dict[Path, set[Path]] = {path: set() for path, _ in modules()}
    for path in graph:
        graph[path] = graph.keys() & set(imported_modules(path))
    reached = {path: reachable(path, graph) for path in graph}
    found = {frozenset(q for q in reached[p] if p in reached[q]) for p in graph if p in reached[p]}
    return [{str(path.relative_to(ROOT)) for path in circle} for circle in found]


def imported_modules(path: Path) -> Iterator[Path]:
    """Yield the files that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in imported_names(node, path):
                yield from (found for found in files_of(name) if found != path)


def files_of(name: str) -> Iterator[Path]:
    """Yield the file of a dotted name: of a module, or of the one that defines it."""
    place = ROOT.joinpath(*name.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.exists():
            yield path
            return
    for path in (place.parent.with_suffix(".py"), place.parent / "__init__.py"):
        if path.exists():
            yield path


def reachable(start: Path, graph: dict[Path, set[Path]]) -> set[Path]:
    found: set[Path] = set()
    waiting = list(graph[start])
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += graph.get(path, ())
    return found


def test_every_module_is_drawn() -> None:
    undrawn = [path for path, unit in modules() if unit not in LAYER]
    assert [str(path.relative_to(ROOT)) for path in undrawn] == []


def test_imports_point_up_the_drawing() -> None:
    wrong = [found for found in imports() if found.unit in LAYER and not points_up(found)]
    assert [str(found) for found in wrong] == []


def test_no_modules_import_each_other() -> None:
    assert circles() == []


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
    users = [found for found in foreign if found.unit in ON_THE_SEAM]
    assert [str(found) for found in users if any(map(is_private, found.name.split(".")))] == []


def test_leaves_and_adapters_touch_no_private_attributes() -> None:
    """Neither `client.aio._…` nor any other of an object that is not their own."""
    assert list(private_attributes()) == []


def private_attributes() -> Iterator[str]:
    for path, unit in modules():
        if unit in ON_THE_SEAM:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and is_private(node.attr) and is_foreign(node):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"


def is_foreign(node: ast.Attribute) -> bool:
    own = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
    return not own and node.attr not in NOT_OURS


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


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
