"""What asks for the end."""

from __future__ import annotations

import signal

__all__ = ["Signals"]

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """
    Counts Ctrl-C, SIGTERM and a terminal that was closed; interrupts nothing.

    So nothing is left half begun: who works looks at *count* now and then.
    """

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Signals:
        for number in NUMBERS:
            if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN):  # nohup
                signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number in NUMBERS:  # all is done: nobody shall see Python being interrupted
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, frame: object) -> None:
        self.count += 1
