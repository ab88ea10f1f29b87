"""
How much of the rooms their unit tests reach: branches, without a socket; `make coverage`.

The orders of test_orders.py would reach more of it, by luck; they are left out.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import coverage
import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("lifecycle", "connection", "handling")
LEAST = 95.0  # percent of the branches of each room
LEFT_OUT = ("test_orders.py", "test_old_faults.py")


def forbid_sockets(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse what leaves the process; a pair of sockets within it is none."""
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo"):
        raise AssertionError(f"a unit test wants a socket: {event} {arguments[1:]}")


def reached() -> tuple[int, dict[str, Any]]:
    """Run the tests; return what pytest says, and coverage's figures by file."""
    measured = coverage.Coverage(
        branch=True, source_pkgs=[f"datastream_ws.{room}" for room in ROOMS], data_file=None
    )
    sys.addaudithook(forbid_sockets)
    measured.start()
    code = pytest.main(
        ["-n", "0", "-q", "-p", "no:cacheprovider"]
        + [f"--ignore-glob=*/{name}" for name in LEFT_OUT]
        + [str(ROOT / "tests/unit" / room) for room in ROOMS]
    )
    measured.stop()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "coverage.json")
        measured.json_report(outfile=str(file))
        files: dict[str, Any] = json.loads(file.read_text())["files"]
    return int(code), files


def main() -> int:
    if not hasattr(sys, "monitoring"):  # Python 3.11
        # There, what traces lines breaks asyncio.timeout(): tests fail that do not otherwise.
        print("tests/branches.py: skipped, needs Python 3.12 or later")
        return 0
    began = time.monotonic()
    code, files = reached()
    branches, taken = Counter[str](), Counter[str]()
    for name, found in sorted(files.items()):
        room = Path(name).parent.name
        branches[room] += found["summary"]["num_branches"]
        taken[room] += found["summary"]["covered_branches"]
        for start, end in found["missing_branches"]:
            print(f"{Path(name).name}:{start} never goes to {end if end > 0 else 'the end'}")
    shares = {room: 100 * taken[room] / branches[room] for room in ROOMS}
    for room, share in shares.items():
        print(f"{room}: {share:.1f} % of {branches[room]} branches")
    print(f"{time.monotonic() - began:.0f} s")
    return code or any(share < LEAST for share in shares.values())


if __name__ == "__main__":
    sys.exit(main())
