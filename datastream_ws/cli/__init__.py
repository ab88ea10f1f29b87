"""
The command ``datastream-ws``: listen to a stream, record and replay it, check why it fails.

A leaf: it does what a user's program could do with the public names. What comes from the peer is
escaped before a terminal sees it; headers and query strings are never shown.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Sequence

from ..embedding import said
from ..runner import EXIT_CONFIGURATION

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code (those of :mod:`datastream_ws.runner`)."""
    # Until a command has a way of its own to end: at once and silently, as other commands do.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .arguments import parse

    wanted = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        import rich as _  # noqa: F401
    except ImportError:
        print("datastream-ws needs rich: pip install 'datastream-ws[cli]'", file=sys.stderr)
        return EXIT_CONFIGURATION
    try:
        code: int = wanted.run(wanted)
    except Exception as error:
        if wanted.verbose:
            traceback.print_exc()
        print(f"datastream-ws {wanted.command}: {said_shortly(error)}", file=sys.stderr)
        return EXIT_CONFIGURATION
    return code


def said_shortly(error: Exception) -> str:
    """Return one line: our own errors say what to do, others that -v tells more."""
    from .. import DataStreamError

    if isinstance(error, DataStreamError):
        return said(error)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return f"{said(error)} (-v shows where)"
