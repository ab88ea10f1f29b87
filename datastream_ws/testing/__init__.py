"""
Tools for tests of programs that use a stream.

``StreamServer`` is a real WebSocket server on a thread. ``capture_sent`` collects the messages that
a client sends without a server. The package also has a pytest plugin with the fixture
``stream_server``, which is a new StreamServer for each test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .capture import capture_sent
    from .server import StreamServer

__all__ = ["StreamServer", "capture_sent"]


def __getattr__(name: str) -> Any:
    # Imported on first use, because every pytest run loads this package for the plugin.
    if name == "StreamServer":
        from .server import StreamServer

        return StreamServer
    if name == "capture_sent":
        from .capture import capture_sent

        return capture_sent
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
