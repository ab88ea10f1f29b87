"""What a spool costs, as ratios to the same client without one.

    python -m benchmarks.spool [--rounds 7] [--count 100000] [--size 500]

`idle`: a spool that is never needed, because memory has no limit in either run. `journal`: every
message goes through the file before it is handled. Each is measured right beside a run without a
spool, in fresh processes against the same blaster, so that what else the machine does slows both;
the median of the ratios counts. `none` pairs the client without a spool with itself: the noise.

Exit code 1 if a run fails, never because one is slow.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from statistics import median
from typing import Any

from benchmarks.blaster import ROOT, Blaster, Load
from benchmarks.contestants import PATIENCE, Stopwatch, check

UNLIMITED = {"inbox_size": None, "inbox_bytes": None}
# kind -> options of the run measured, and of the one beside it
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "none": (UNLIMITED, UNLIMITED),
    "idle": ({**UNLIMITED, "spool": "idle.db"}, UNLIMITED),
    "journal": ({"spool": "journal.db", "journal": True}, {}),
}


def run(url: str, count: int, options: dict[str, Any]) -> float:
    """Seconds from the first message handled to the last."""
    from datastream_ws import Client, Message

    watch, done = Stopwatch(count), threading.Event()
    client = Client(url, **options)

    @client.on_message
    def handle(message: Message) -> None:
        message.json()
        if watch.tick():
            done.set()

    with client:
        check(client, done.wait(PATIENCE))
    return watch.seconds


def measure(url: str, count: int, kind: str, side: int) -> float:
    """Seconds of one run, in a process and a directory of its own."""
    command = [sys.executable, "-m", "benchmarks.spool", "--run", kind, str(side), url, str(count)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command,
            check=False,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE + 60,
            env={**os.environ, "SPOOL_FOLDER": folder},
        )
    if done.returncode:
        raise RuntimeError(f"{kind}: exit code {done.returncode}\n{done.stderr.strip()[-2000:]}")
    return float(done.stdout.split()[-1])


def ratio(url: str, count: int, kind: str, number: int) -> float:
    """Speed with a spool in terms of that without, of one pair."""
    order = (0, 1) if number % 2 else (1, 0)
    seconds = {side: measure(url, count, kind, side) for side in order}
    print(f"  {kind:<8} {count / seconds[0]:10,.0f} {count / seconds[1]:10,.0f}", file=sys.stderr)
    return seconds[1] / seconds[0]


def in_child(kind: str, side: str, url: str, count: str) -> None:
    options = dict(KINDS[kind][int(side)])
    if "spool" in options:
        options["spool"] = os.path.join(os.environ["SPOOL_FOLDER"], options["spool"])
    print(run(url, int(count), options))


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.spool")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=500)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.run:
        in_child(*words.run)
        return 0
    ratios: dict[str, list[float]] = {kind: [] for kind in words.kinds}
    try:
        with Blaster(Load(size=words.size, count=words.count)) as blaster:
            for number in range(words.rounds):
                for kind in words.kinds:
                    ratios[kind].append(ratio(blaster.url, words.count, kind, number))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{words.size} bytes, {words.count} messages, {words.rounds} rounds")
    print(f"{'':<8} {'ratio':>7} {'min':>7} {'max':>7}")
    for kind, found in ratios.items():
        print(f"{kind:<8} {median(found):7.2f} {min(found):7.2f} {max(found):7.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
