"""No function of the packages is longer than 50 lines, or harder to follow than 15; `make lint`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import complexipy

ROOT = Path(__file__).parents[1]
MOST_LINES = 50
MOST_COMPLEX = 15  # cognitive complexity, as SonarSource defines it


def too_large() -> Iterator[tuple[str, str]]:
    """Yield each function that is, and why."""
    for path in sorted(ROOT.glob("datastream_ws*/**/*.py")):
        for function in complexipy.file_complexity(str(path)).functions:
            name = f"{path.relative_to(ROOT)}: {function.name}"
            lines = function.line_end - function.line_start + 1
            if lines > MOST_LINES:
                yield name, f"{lines} lines, {MOST_LINES} are the most"
            if function.complexity > MOST_COMPLEX:
                yield name, f"complexity {function.complexity}, {MOST_COMPLEX} is the most"


def main() -> int:
    found = [f"{name}: {why}" for name, why in too_large()]
    print("\n".join(found) or "tests/sizes.py: no function is too large")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
