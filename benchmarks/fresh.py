"""One measurement in a process of its own, so that none inherits another's heap or threads.

    python -m benchmarks.fresh contestants receive '{"name": "bare", "url": "…", "count": 1000}'

calls ``benchmarks.contestants.receive(name=…, url=…, count=…)`` and prints what it returns, as
JSON.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import Any

from benchmarks.blaster import ROOT

__all__ = ["RunError", "fresh"]

PATIENCE = 240.0  # seconds until a process that does not finish is given up


class RunError(Exception):
    """A measurement failed; the message is what its process said last."""


def fresh(module: str, function: str, **arguments: Any) -> Any:
    """
    What a function of a module of benchmarks returns, called in a new process.

    Raises:
        RunError: If it raised, or took longer than 4 minutes.

    """
    what = f"{module}.{function} {arguments}"
    command = [sys.executable, "-m", "benchmarks.fresh", module, function, json.dumps(arguments)]
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
    module, function, arguments = sys.argv[1:]
    call = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    print(json.dumps(call(**json.loads(arguments))))


if __name__ == "__main__":
    main()
