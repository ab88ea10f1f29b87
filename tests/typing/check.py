"""
What mypy and pyright say of user code: nothing of good.py, and of bad.py each marked line.

Run by ``make lint``. Where pyright cannot be fetched (it is fetched from npm) it is skipped, but
not in CI.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
FILES = [str(HERE / name) for name in ("good.py", "bad.py")]
MARK = "# wrong"
SECONDS = 120  # for fetching it, too

Place = tuple[str, int]


def expected() -> set[Place]:
    """Return the lines that are marked."""
    lines = (HERE / "bad.py").read_text(encoding="utf-8").splitlines()
    return {("bad.py", number) for number, line in enumerate(lines, 1) if line.endswith(MARK)}


def found_by_mypy() -> set[Place]:
    # A cache of its own: the files are excluded from the run over everything.
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", *FILES]
    output = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS).stdout
    lines = re.findall(r"^(.+?):(\d+): error:", output, re.MULTILINE)
    return {(Path(path).name, int(number)) for path, number in lines}


def found_by_pyright() -> set[Place] | None:
    """Return the places of errors; None: it is not here, and cannot be fetched."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    # Without a network npm would try for minutes.
    impatient = {} if os.environ.get("CI") else {"npm_config_fetch_retries": "0"}
    environment = {"npm_config_fetch_timeout": "8000", **os.environ, **impatient}
    try:
        done = subprocess.run(
            [*command, *FILES], capture_output=True, text=True, timeout=SECONDS, env=environment
        )
        report = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return None
    errors = [each for each in report["generalDiagnostics"] if each["severity"] == "error"]
    return {(Path(each["file"]).name, each["range"]["start"]["line"] + 1) for each in errors}


def differences(checker: str, found: set[Place]) -> Iterable[str]:
    for name, number in sorted(expected() - found):
        yield f"tests/typing/{name}:{number}: {checker} does not find the mistake"
    for name, number in sorted(found - expected()):
        yield f"tests/typing/{name}:{number}: {checker} finds an error in what is right"


def main() -> int:
    wrong = list(differences("mypy", found_by_mypy()))
    by_pyright = found_by_pyright()
    if by_pyright is not None:
        wrong += differences("pyright", by_pyright)
    elif os.environ.get("CI"):
        wrong.append("pyright could not be fetched")
    else:
        print("tests/typing: skipped pyright, which is not here and could not be fetched")
    print("\n".join(wrong) or f"tests/typing: {len(expected())} mistakes found")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
