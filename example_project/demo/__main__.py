"""The entry point of ``python -m example_project.demo``, which handles Ctrl-C from the start."""

from __future__ import annotations

import sys

from example_project.demo.signals import Signals


def main() -> int:
    with Signals() as signals:
        from example_project.demo.run import run  # after Signals, because it takes a moment

        return run(sys.argv[1:], signals)


if __name__ == "__main__":
    sys.exit(main())
