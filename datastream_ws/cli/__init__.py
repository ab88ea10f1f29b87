"""
The command ``datastream-ws``, which prints, records and replays a stream, or checks why it fails.

Text from the server is escaped before it's printed. Headers and query strings are never printed.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Sequence

from .. import DataStreamError
from ..embedding import quiet_in_pipe, said
from ..runner import EXIT_CONFIGURATION

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code, see :mod:`datastream_ws.runner`."""
    # Until a command handles Ctrl-C itself, it ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .arguments import parse

    wanted = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        import rich as _  # noqa: F401
    except ImportError:
        print("rich is not installed. Run: pip install 'datastream-ws[cli]'", file=sys.stderr)
        return EXIT_CONFIGURATION
    try:
        with quiet_in_pipe():
            code: int = wanted.run(wanted)
    except Exception as error:
        if wanted.verbose:
            traceback.print_exc()
        print(f"datastream-ws {wanted.command}: {said_shortly(error)}", file=sys.stderr)
        return EXIT_CONFIGURATION
    return code


def said_shortly(error: Exception) -> str:
    """Return an error as one line. For unexpected errors it mentions -v."""
    if isinstance(error, DataStreamError):
        return said(error)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return f"{said(error)} (-v shows the traceback)"
