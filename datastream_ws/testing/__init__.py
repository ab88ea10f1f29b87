"""
For the tests of programs that use a stream: a real server on a thread, and a client without one.

With the package comes a pytest plugin: the fixture ``stream_server`` is a fresh StreamServer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .capture import capture_sent
    from .server import StreamServer

__all__ = ["StreamServer", "capture_sent"]


def __getattr__(name: str) -> Any:
    # Lazy, because the pytest plugin beside this is loaded in every test run of every user.
    if name == "StreamServer":
        from .server import StreamServer

        return StreamServer
    if name == "capture_sent":
        from .capture import capture_sent

        return capture_sent
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
