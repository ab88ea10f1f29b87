"""The signals that end the demo."""

from __future__ import annotations

import signal

__all__ = ["Signals"]

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """
    A counter of Ctrl-C, SIGTERM and SIGHUP, which interrupts nothing.

    The demo checks *count* regularly, so that it never stops within a step.
    """

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Signals:
        for number in NUMBERS:
            if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN):  # nohup
                signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number in NUMBERS:  # so that Python prints no traceback while it exits
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, frame: object) -> None:
        self.count += 1
