"""How fast a Django receiver of `message_received` is beside the core's own plain handler.

    python -m benchmarks.django_receive [--rounds 5] [--count 100000] [--size 139]

Both handle the same messages with the same code, pair by pair, each in a fresh process; a ratio is
taken within a pair. The receiver's connections to the database are looked after around each run of
messages, as in every project; it does not use one itself.

Exit code 1 if a run fails, never because one is slow.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
from statistics import median
from typing import Any

from benchmarks.blaster import ROOT, Blaster, Load
from benchmarks.contestants import PATIENCE, Stopwatch, check, ours_sync

WAYS = ("core", "receiver", "decorator")


def django_stream(url: str) -> Any:
    """Return the default stream of a project with a database."""
    import django
    from django.conf import settings

    settings.configure(
        INSTALLED_APPS=["datastream_ws_django"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        DATASTREAMS={"default": {"URL": url}},
    )
    django.setup()
    from django.db import connection

    from datastream_ws_django import datastream

    connection.ensure_connection()
    return datastream


def receive(url: str, count: int, *, decorator: bool) -> float:
    """Seconds a project takes for `count` messages, from the first handled to the last."""
    stream = django_stream(url)
    from datastream_ws_django.signals import message_received

    watch, done = Stopwatch(count), threading.Event()

    def handle(message: Any) -> None:
        message.json()
        if watch.tick():
            done.set()

    def receiver(sender: Any, *, stream: Any, message: Any, **kwargs: Any) -> None:
        handle(message)

    if decorator:
        stream.on_message(handle)
    else:
        message_received.connect(receiver, sender=stream)
    with stream:
        check(stream.client, done.wait(PATIENCE))
    return watch.seconds


def measure(way: str, url: str, count: int) -> float:
    """Seconds one way takes, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.django_receive", "--way", way, "--url", url]
    done = subprocess.run(
        [*command, "--count", str(count)],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE + 60,
    )
    if done.returncode:
        raise RuntimeError(f"{way}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def compare(load: Load, rounds: int) -> dict[str, list[float]]:
    """The ratios of each way to the core, round by round."""
    ratios: dict[str, list[float]] = {way: [] for way in WAYS[1:]}
    with Blaster(load) as blaster:
        for number in range(rounds):
            for way in WAYS[1:]:
                pair = ("core", way) if number % 2 else (way, "core")
                seconds = {name: measure(name, blaster.url, load.count) for name in pair}
                ratios[way].append(seconds["core"] / seconds[way])
                rate = load.count / seconds[way]
                print(f"  {way}: {ratios[way][-1]:.2f}, {rate:,.0f}/s", file=sys.stderr, flush=True)
    return ratios


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.django_receive", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=139)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.way == "core":
        print(ours_sync(words.url, words.count))
        return 0
    if words.way:
        print(receive(words.url, words.count, decorator=words.way == "decorator"))
        return 0
    try:
        ratios = compare(Load(count=words.count, size=words.size), words.rounds)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    for way, values in ratios.items():
        print(f"{way:<10} {median(values):.2f} of the core (from {min(values):.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
