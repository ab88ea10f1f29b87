"""Run one measurement in its own process, so that it inherits no heap and no threads.

::

    python -m benchmarks.fresh contestants receive '{"name": "bare", "url": "…", "count": 1000}'

This calls ``benchmarks.contestants.receive(name=…, url=…, count=…)``, and prints the result as
JSON. A fourth argument is a checkout whose package is measured instead of this one.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.blaster import ROOT

__all__ = ["RunError", "fresh", "fresh_in"]

PATIENCE = 240.0  # seconds that a process may take


class RunError(Exception):
    """A measurement failed. The text contains the last output of its process."""


def fresh(module: str, function: str, **arguments: Any) -> Any:
    """
    Call a function of a module of benchmarks in a new process, and return its result.

    Raises:
        RunError: If it raises an exception, or takes longer than 4 minutes.

    """
    return fresh_in(ROOT, module, function, **arguments)


def fresh_in(tree: Path, module: str, function: str, /, **arguments: Any) -> Any:
    """Do the same with the package of another checkout, and the benchmarks of this one."""
    what = f"{module}.{function} {arguments}"
    words = [module, function, json.dumps(arguments), str(tree)]
    command = [sys.executable, "-m", "benchmarks.fresh", *words]
    try:
        done = subprocess.run(
            command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"{what}: no result within {PATIENCE:.0f} s") from None
    if done.returncode:
        raise RunError(f"{what}: exit code {done.returncode}\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    module, function, arguments, *tree = sys.argv[1:]
    sys.path[:0] = tree  # before any module of datastream_ws is imported
    call = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    print(json.dumps(call(**json.loads(arguments))))


if __name__ == "__main__":
    main()
