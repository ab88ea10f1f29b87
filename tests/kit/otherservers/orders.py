"""Functions that the servers in Python share."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from typing import Any

__all__ = ["listener", "order", "say"]


def listener() -> socket.socket:
    """Return a listening socket on the port in the first argument, and print its port."""
    address = os.environ.get("HOST", "127.0.0.1"), int(sys.argv[1])
    sock = socket.create_server(address, backlog=128)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    say(f"listening {sock.getsockname()[1]}")
    return sock


def say(text: str) -> None:
    print(text, flush=True)


def order(data: Any) -> dict[str, Any]:
    """Return the order in a text message. It's empty for any other message."""
    try:
        found = json.loads(data) if isinstance(data, str) else None
    except ValueError:
        return {}
    return found if isinstance(found, dict) and "do" in found else {}


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)
