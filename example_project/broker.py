"""
Celery's ``filesystem://`` broker, with atomic writes. Redis and RabbitMQ don't need it.

Kombu creates a message's file and then writes it. A worker that reads it in between gets an empty
message, and exits (github.com/celery/kombu/issues/1551).
"""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import filesystem

__all__ = ["Transport"]


class Channel(filesystem.Channel):  # type: ignore[misc,unused-ignore]  # kombu has no types
    """A channel that writes each message into a hidden file, and then renames it."""

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:  # type: ignore[override,unused-ignore]
        name = f"{time.monotonic_ns() // 1_000_000}_{uuid.uuid4()}.{queue}.msg"
        folder = Path(self.data_folder_out)
        unfinished = folder / f".{name}.unfinished"
        unfinished.write_text(json.dumps(message))
        os.replace(unfinished, folder / name)


class Transport(filesystem.Transport):  # type: ignore[misc,unused-ignore]
    """The transport for ``broker_transport``."""

    Channel = Channel
