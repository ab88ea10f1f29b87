"""How fast a Flask app's handlers are given messages, as a ratio to the core's own plain handler.

    python -m benchmarks.flask_receive [--rounds 7] [--count 200000] [--size 139]

Both handlers decode the message. The Flask app's is called in an application context of its own
each time, which alone costs about 2 µs: two signals, a teardown, a `g`. In each round the two run
one right after the other, in turn, each in a fresh process against the same blaster; the median of
the rounds is the figure that counts. It is to be at least 0.5.

Exit code 1 if a run fails, never because one is slow.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
from importlib.metadata import version
from statistics import median

from benchmarks.blaster import ROOT, Blaster, Load
from benchmarks.contestants import PATIENCE, Stopwatch, check
from benchmarks.receive import RunError, Score, heading, measure

CORE = "ours-sync"


def flask_sync(url: str, count: int) -> float:
    """DataStream, sync handler: message.json() in an application context"""
    from flask import Flask

    from datastream_ws import Message
    from datastream_ws_flask import DataStream

    watch, done, stream = Stopwatch(count), threading.Event(), DataStream()

    @stream.on_message
    def handle(message: Message) -> None:
        message.json()
        if watch.tick():
            done.set()

    app = Flask("benchmark")
    app.config["DATASTREAM_URL"] = url
    stream.init_app(app)
    stream.start(app)
    with app.app_context():
        check(stream.client, done.wait(PATIENCE))
    stream.close(app)
    return watch.seconds


def measure_flask(url: str, count: int) -> float:
    """Seconds the Flask app takes for `count` messages, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.flask_receive", "--one", url, str(count)]
    try:
        done = subprocess.run(
            command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE + 60
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"flask: no result within {PATIENCE + 60:.0f} s") from None
    if done.returncode:
        raise RunError(f"flask: exit code {done.returncode}\n{done.stderr.strip()[-2000:]}")
    return float(done.stdout.split()[-1])


def play_round(score: Score, url: str, count: int, *, core_first: bool) -> None:
    """Run the Flask app and the core, one right after the other."""
    if core_first:
        score.baseline.append(measure(CORE, url, count))
    score.seconds.append(measure_flask(url, count))
    if not core_first:
        score.baseline.append(measure(CORE, url, count))


def report(score: Score, count: int) -> str:
    ratios = score.ratios
    return (
        f"ratio {median(ratios):.2f} (min {min(ratios):.2f}, max {max(ratios):.2f}), "
        f"{count / median(score.seconds):,.0f} messages/s beside "
        f"{count / median(score.baseline):,.0f} of the core; Flask {version('flask')}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.flask_receive", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=200_000, help="messages per run")
    parser.add_argument("--size", type=int, default=139, help="payload bytes per message")
    parser.add_argument("--one", nargs=2, metavar=("URL", "COUNT"), help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one:
        print(flask_sync(words.one[0], int(words.one[1])))
        return 0
    load, score = Load(size=words.size, count=words.count), Score()
    print(heading(load, words.rounds), flush=True)
    try:
        with Blaster(load) as blaster:
            for number in range(words.rounds):
                play_round(score, blaster.url, load.count, core_first=number % 2 == 0)
                print(f"  {score.ratios[-1]:.2f}", file=sys.stderr, flush=True)
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    print(report(score, load.count))
    return 0


if __name__ == "__main__":
    sys.exit(main())
